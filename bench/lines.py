"""The lines that daemons are fed: generated transactions, cut or filled up to one size."""

from __future__ import annotations

import os
from functools import lru_cache
from itertools import islice
from pathlib import Path

from harness.transactions import BLOCK_LINES, Population, transactions

# Lines repeat after this many: far more than a compressor looks back.
DIFFERENT_LINES = 100_000


@lru_cache(maxsize=2)
def different_lines(size_bytes: int | None) -> tuple[bytes, ...]:
    """Return transactions without line ends, each of ``size_bytes``; None keeps their own size."""
    blocks = islice(transactions(1, Population()), DIFFERENT_LINES // BLOCK_LINES)
    lines = (line[:-1] for block in blocks for line in block)
    if size_bytes is None:
        return tuple(lines)
    return tuple(line[:size_bytes].ljust(size_bytes, b".") for line in lines)


def write_lines(path: Path, count: int, size_bytes: int | None) -> int:
    """Write ``count`` lines to ``path``, and return the bytes of their entries.

    Raises:
        OSError: the file cannot be written.
    """
    lines = different_lines(size_bytes)
    written = entry_bytes = 0
    with path.open("wb") as output:
        whole = b"\n".join(lines) + b"\n"
        while written < count:
            some = lines[: count - written]
            output.write(whole if len(some) == len(lines) else b"\n".join(some) + b"\n")
            entry_bytes += sum(map(len, some))
            written += len(some)
        output.flush()
        os.fsync(output.fileno())  # or it would be written while others are measured
    return entry_bytes
