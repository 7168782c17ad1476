"""Reading a file from one place on, around the page cache, and ahead of whoever uses what was read.

Files written past the page cache come from the device. Reading them into memory that was used before saves what is
dear in a virtual machine: pages of the cache that nobody has touched yet, and the copy out of them.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Generator
from pathlib import Path

# Small where nothing else is done meanwhile: little is read in vain. Large for a thread that hands them over.
CHUNK_SIZE_BYTES = 256 << 10
CHUNK_SIZE_AHEAD_BYTES = 1 << 20
# One is in use, two wait, one is being filled.
BUFFERS_AHEAD = 4


def read_chunks(
    path: Path, start: int, size_bytes: int, *, ahead: bool
) -> Generator[memoryview, None, None]:
    """Yield what the file has from ``start`` (of a block) to ``size_bytes``; each is valid until the next is asked for.

    Args:
        ahead: read in a thread of its own, a bounded number of chunks ahead.

    Raises:
        OSError: it cannot be read.
    """
    if not ahead:
        return _read(path, start, size_bytes, CHUNK_SIZE_BYTES, 1)
    from kifa.prefetch import prefetched  # 3 ms that whoever has little to read need not pay

    return prefetched(
        _read(path, start, size_bytes, CHUNK_SIZE_AHEAD_BYTES, BUFFERS_AHEAD), chunk_items=1
    )


def _read(
    path: Path, start: int, size_bytes: int, chunk_size_bytes: int, buffer_count: int
) -> Generator[memoryview, None, None]:
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor = os.open(path, flags)
    try:
        # anonymous memory is page-aligned, as O_DIRECT wants it
        buffers = [memoryview(mmap.mmap(-1, chunk_size_bytes)) for _ in range(buffer_count)]
        offset = start
        while offset < size_bytes:
            buffer = buffers[(offset - start) // chunk_size_bytes % buffer_count]
            got = os.preadv(descriptor, [buffer], offset)
            yield buffer[: min(got, size_bytes - offset)]
            if got < chunk_size_bytes:
                return
            offset += got
    finally:
        os.close(descriptor)
