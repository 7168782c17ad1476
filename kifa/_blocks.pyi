from _typeshed import ReadableBuffer

def find_run(index: ReadableBuffer, position: int, largest_size: int) -> tuple[int, int, int]: ...
def check_blocks(
    run: ReadableBuffer, index: ReadableBuffer, position: int, count: int, seed: int
) -> tuple[int, str | None]: ...

class BlockIndex:
    blocks: int
    min_lsn: int
    last_lsn: int
    entries: int
    min_timestamp: int
    max_timestamp: int
    def add_run(self, run: ReadableBuffer, offset: int) -> None: ...
    def __bytes__(self) -> bytes: ...
