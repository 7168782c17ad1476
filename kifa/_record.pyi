from kifa._batch import EntryBatch

def frame_group(
    batch: EntryBatch, controls: list[tuple[int, int, int, bytes]], salt: int
) -> bytearray: ...
