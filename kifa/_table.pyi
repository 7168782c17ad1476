from _typeshed import ReadableBuffer

from kifa._batch import EntryBatch

def unpack_block(payload: bytes, first_lsn: int, count: int, min_timestamp: int) -> EntryBatch: ...
def find_block(index: ReadableBuffer, lsn: int) -> int: ...
def skip_blocks(
    index: ReadableBuffer,
    position: int,
    from_lsn: int,
    to_lsn: int,
    from_time: int,
    to_time: int,
    reverse: bool,
) -> int: ...
