"""Stores for the tests of the read side, made by the real writer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import kifa
from kifa._batch import Entry, EntryBatch
from kifa.errors import Damage, DamagedError
from kifa.query import Reader, Selection


def make_store(
    path: Path, runs: Sequence[Sequence[bytes]], *, flush_last: bool = False
) -> list[bytes]:
    """Write each run of entries; a flush ends each but (by default) the last. Return all data in LSN order."""
    with kifa.open(path, segment_size_mib=1, compaction_enabled=False) as log:
        for number, run in enumerate(runs):
            log.append_many(run)
            if flush_last or number < len(runs) - 1:
                log.flush()
    return [data for run in runs for data in run]


def retire_log(path: Path) -> None:
    """Move on to a new segment (with one more entry), so that what is in tables is only there."""
    with kifa.open(path, segment_size_mib=1, compaction_enabled=False) as log:
        log.append(b"one more")
        log.flush()


def sample(count: int, size: int = 30, seed: int = 0) -> list[bytes]:
    """Data that does not compress, so that flipped bits hit it."""
    source = random.Random(seed)
    return [source.randbytes(size) for _ in range(count)]


def read_all(path: Path, selection: Selection | None = None) -> tuple[list[Entry], list[Damage]]:
    """Everything that is served, and the damage that was raised in the end."""
    entries: list[Entry] = []
    selection = selection or Selection()
    try:
        for batch in Reader(path).batches(selection):
            assert isinstance(batch, EntryBatch)
            part = list(batch)
            entries += part[::-1] if selection.reverse else part
    except DamagedError as error:
        return entries, error.damage
    return entries, []


def lsns_named(damage: Sequence[Damage]) -> set[int]:
    """All LSNs that ``damage`` says are lost; of an open range, the first hundred."""
    named: set[int] = set()
    for item in damage:
        assert item.first_lsn is not None
        last_lsn = item.first_lsn + 100 if item.last_lsn is None else item.last_lsn
        named |= set(range(item.first_lsn, min(last_lsn, item.first_lsn + 100) + 1))
    return named


def files_of(path: Path) -> dict[Path, bytes]:
    """Every file of a store and its content."""
    return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}
