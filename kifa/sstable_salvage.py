"""Finding the blocks of a sorted table whose index or footer is damaged: blocks describe themselves."""

from __future__ import annotations

from collections.abc import Callable

from kifa._typing import NamedTuple
from kifa.sstable_format import (
    BLOCK_HEADER_SIZE,
    BLOCK_MAGIC,
    HEADER_SIZE,
    MAX_U64,
    BlockHeader,
    IndexRow,
    TableInfo,
)

SEARCH_SIZE_BYTES = 1 << 20

Read = Callable[[int, int], bytes]  # (offset, size) -> exactly so many bytes, or none


class BadArea(NamedTuple):
    """Bytes of the table that hold no valid block, and the LSNs (inclusive) that must have been there."""

    offset: int
    lsns: tuple[int, int] | None
    reason: str


class Salvage:
    """What a walk found: the index as it should be, and the areas without blocks."""

    def __init__(self) -> None:
        self.index = b""
        self.areas: list[BadArea] = []
        self.blocks = 0
        self.entries = 0
        self.raw_bytes = 0
        self.min_timestamp = MAX_U64
        self.max_timestamp = 0
        self.min_lsn = 0
        self.last_lsn = 0

    def info(self, name: str, size_bytes: int, known: tuple[int, int] | None) -> TableInfo:
        """Describe the table; its LSN range is the ``known`` one, where there is one."""
        low, high = known or (self.min_lsn, self.last_lsn)
        return TableInfo(
            name,
            low,
            high,
            self.entries,
            self.blocks,
            self.raw_bytes,
            size_bytes,
            self.min_timestamp,
            self.max_timestamp,
        )


def salvage_index(read: Read, end: int, seed: int, known: tuple[int, int] | None) -> Salvage:
    """Walk the blocks between the table's header and offset ``end``.

    Args:
        read: reads the file.
        end: where the blocks end, or the size of the file where that is unknown.
        seed: the CRC of the store id.
        known: the table's LSN range, if header or name tell it: lost LSNs at its ends are then known too.
    """
    salvage = Salvage()
    first_lsn, last_lsn = known or (0, MAX_U64)
    salvage.last_lsn = first_lsn - 1 if known else 0
    rows = bytearray()
    offset = HEADER_SIZE
    while offset < end:
        found = _next_block(read, offset, end, seed, (salvage.last_lsn + 1, last_lsn))
        if found is None:
            break
        start, header = found
        if start > offset:
            _add_area(salvage, offset, header.first_lsn - 1, "no valid block header")
        _add_block(salvage, rows, start, header)
        offset = start + header.block_size
    if known and salvage.last_lsn < last_lsn:
        _add_area(salvage, min(offset, end), last_lsn, "no valid block header")
    salvage.index = bytes(rows)
    return salvage


def _add_block(salvage: Salvage, rows: bytearray, offset: int, header: BlockHeader) -> None:
    rows += IndexRow(
        header.first_lsn,
        header.entries,
        header.block_size,
        offset,
        header.min_timestamp,
        header.max_timestamp,
    ).pack()
    salvage.blocks += 1
    salvage.entries += header.entries
    salvage.raw_bytes += header.raw_size
    salvage.min_timestamp = min(salvage.min_timestamp, header.min_timestamp)
    salvage.max_timestamp = max(salvage.max_timestamp, header.max_timestamp)
    salvage.min_lsn = salvage.min_lsn or header.first_lsn
    salvage.last_lsn = header.last_lsn


def _add_area(salvage: Salvage, offset: int, last_lsn: int, reason: str) -> None:
    first_lsn = salvage.last_lsn + 1
    lsns = (first_lsn, last_lsn) if first_lsn <= last_lsn else None
    salvage.areas.append(BadArea(offset, lsns, reason))


def _next_block(
    read: Read, offset: int, end: int, seed: int, lsns: tuple[int, int]
) -> tuple[int, BlockHeader] | None:
    """Return the first valid block header at or behind ``offset`` that fits ``lsns``, and where it is."""
    header = _block_at(read, offset, end, seed, lsns)
    if header is not None:
        return offset, header
    overlap = len(BLOCK_MAGIC) - 1
    window_start = offset + 1
    while window_start < end:
        window = read(window_start, min(SEARCH_SIZE_BYTES, end - window_start))
        hit = window.find(BLOCK_MAGIC)
        while hit >= 0:
            header = _block_at(read, window_start + hit, end, seed, lsns)
            if header is not None:
                return window_start + hit, header
            hit = window.find(BLOCK_MAGIC, hit + 1)
        window_start += SEARCH_SIZE_BYTES - overlap
    return None


def _block_at(
    read: Read, offset: int, end: int, seed: int, lsns: tuple[int, int]
) -> BlockHeader | None:
    if offset + BLOCK_HEADER_SIZE > end:
        return None
    header = BlockHeader.parse(read(offset, BLOCK_HEADER_SIZE), seed)
    if header is None or not lsns[0] <= header.first_lsn <= header.last_lsn <= lsns[1]:
        return None
    return header
