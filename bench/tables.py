"""Stores of any size in little time: tables by the product's own writer, with timestamps that are spread evenly."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import kifa
from bench.lines import different_lines
from kifa._batch import EntryBatch
from kifa._table import unpack_block
from kifa.sstable_format import TABLE_DIRECTORY, TableMetadata
from kifa.sstable_writer import write_table

ENTRY_SIZE = 200
BLOCK_ENTRIES = 320
# 1,000 entries a second: a minute holds 60,000.
MS_PER_ENTRY = 1
START_MS = 1_700_000_000_000


def make_tables(path: Path, raw_bytes: int, *, tables: int, compressible: bool = True) -> int:
    """Make a store at ``path`` with about ``raw_bytes`` of entries of 200 B in ``tables`` tables of one size.

    Its entries are 1 ms apart from `START_MS` on. It was closed cleanly.

    Returns:
        The count of entries.
    """
    each = max(raw_bytes // ENTRY_SIZE // tables // BLOCK_ENTRIES, 1) * BLOCK_ENTRIES
    with kifa.open(path, compaction_enabled=False) as log:
        store_id = log.store_id
    # That log ended with LSN 0. Without it and the manifest the store is what its tables say.
    for file in [path / "manifest", *(path / "wal").iterdir()]:
        file.unlink()
    payloads = _payloads(compressible)
    for number in range(tables):
        batches = _batches(payloads, number * each + 1, each)
        write_table(path / TABLE_DIRECTORY, store_id, batches, TableMetadata())
    with kifa.open(path, compaction_enabled=False) as log:
        assert log.last_lsn == tables * each
    return tables * each


def _payloads(compressible: bool) -> list[bytes]:
    """Return raw payloads of blocks (docs/FORMAT.md, "Block")."""
    if compressible:
        data = b"".join(different_lines(ENTRY_SIZE)[: 256 * BLOCK_ENTRIES])
    else:
        data = os.urandom(256 * BLOCK_ENTRIES * ENTRY_SIZE)
    timestamps = b"\0" + bytes([2 * MS_PER_ENTRY]) * (BLOCK_ENTRIES - 1)  # zigzag
    lengths = bytes([ENTRY_SIZE & 0x7F | 0x80, ENTRY_SIZE >> 7]) * BLOCK_ENTRIES
    size = BLOCK_ENTRIES * ENTRY_SIZE
    return [
        timestamps + lengths + data[start : start + size]
        for start in range(0, len(data) - size + 1, size)
    ]


def _batches(payloads: list[bytes], first_lsn: int, count: int) -> Iterator[EntryBatch]:
    for index, lsn in enumerate(range(first_lsn, first_lsn + count, BLOCK_ENTRIES)):
        payload = payloads[index % len(payloads)]
        yield unpack_block(payload, lsn, BLOCK_ENTRIES, START_MS + lsn * MS_PER_ENTRY)
