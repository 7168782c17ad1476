"""Mending a damaged table: written anew, with what other files still have of the entries it lost.

What is on disk if power goes between the steps:

    write a temporary file | sync it | read it back | rename | sync directory | publish manifest | delete the others
    ^ what there was, and a file that counts for nothing     ^ the new one, in place of the damaged one or beside it

The others are the damaged one, if its name is another, and tables that lie within it. Until they are deleted each entry
is in as many files as before, or in the new one, which was read back from the disk before it got a name: it may take
the place of the only file that has what is left. Whatever fails before the rename leaves the damaged one as it was.

Every entry of the new one was verified where it was read; what no file has stays missing, and is recorded in it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from kifa._batch import EntryBatch
from kifa._merge import MissingRange, merge
from kifa._typing import TYPE_CHECKING, Any, Protocol
from kifa.errors import Damage, DamagedError
from kifa.sstable import Table
from kifa.sstable_format import TableInfo, TableMetadata, merge_metadata
from kifa.sstable_writer import write_table

if TYPE_CHECKING:
    from kifa._merge import Source
    from kifa.judgement import SegmentView


# A table that cannot be mended is tried again after this time, then after twice of it, and so on.
FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 300.0


class HasLsns(Protocol):
    """A table, or what is known of one."""

    @property
    def min_lsn(self) -> int: ...
    @property
    def max_lsn(self) -> int: ...


class Waiting:
    """A damaged table that is still to be mended."""

    def __init__(self, table: HasLsns) -> None:
        """``table`` was not read yet: it may have lost anything."""
        self.lost: tuple[tuple[int, int], ...] = ((table.min_lsn, table.max_lsn),)
        """LSN ranges, inclusive: no other file may go that has some of them."""
        self.reason = ""
        self._delay_seconds = FIRST_DELAY_SECONDS / 2
        self._due = 0.0

    @property
    def seconds_left(self) -> float:
        """How long until it is to be tried."""
        return max(self._due - time.monotonic(), 0.0)

    def postpone(self, reason: str) -> bool:
        """Note why it could not be mended; return whether that is news."""
        self._delay_seconds = min(2 * self._delay_seconds, MAX_DELAY_SECONDS)
        self._due = time.monotonic() + self._delay_seconds
        is_news, self.reason = reason != self.reason, reason
        return is_news


class SegmentSource:
    """A judged segment, as the merge wants it."""

    def __init__(self, view: SegmentView) -> None:
        self._view = view
        self.min_lsn = view.file.first_lsn
        self.max_lsn = view.last_lsn

    def batches(self, from_lsn: int, to_lsn: int, **options: Any) -> Iterator[EntryBatch]:
        """Yield the entries that count. The whole of a table is asked for: no time range, in order."""
        assert not options["reverse"]
        return self._view.batches(from_lsn, to_lsn)


def lost_ranges(damage: Iterable[Damage]) -> tuple[tuple[int, int], ...]:
    """Return the LSN ranges (inclusive) that ``damage`` names."""
    return tuple(
        (place.first_lsn, place.last_lsn)
        for place in damage
        if place.first_lsn is not None and place.last_lsn is not None
    )


def mend_table(
    directory: Path,
    damaged: Table,
    lost: Sequence[tuple[int, int]],
    inputs: Sequence[Table],
    log: Sequence[Source],
) -> TableInfo | None:
    """Write ``damaged`` anew in ``directory``; return None where nothing of what it lost is left, or nothing is lost.

    Args:
        lost: LSN ranges, inclusive.
        inputs: tables within its range: a compaction that died did not delete them.
        log: sources of what the WAL still has.

    Raises:
        OSError: the new table could not be written. Nothing has changed.
        DamagedError: it did not read back as it was written. Nothing has changed.
    """
    others: list[Source] = [*inputs, *log]
    if not any(_has_any(others, first, last) for first, last in lost):
        return None
    recorded = [damaged.metadata] if damaged.metadata_is_intact else [t.metadata for t in inputs]
    missing = tuple(
        Damage(
            "gap", f"sst/{damaged.name}", None, piece.first_lsn, piece.last_lsn, "it was damaged"
        )
        for first, last in lost
        for piece in merge(others, first, last)
        if isinstance(piece, MissingRange)
    )
    metadata = merge_metadata([*recorded, TableMetadata(damage=missing)])
    taken = 0

    def entries() -> Iterator[EntryBatch]:
        nonlocal taken
        for piece in merge([damaged, *others], damaged.min_lsn, damaged.max_lsn):
            if isinstance(piece, EntryBatch):
                taken += piece.count
                yield piece

    def check(path: Path) -> None:
        with Table(path, damaged.store_id) as written:
            found = written.verify()
            if found or written.info.entries != taken:
                raise DamagedError(f"what was written for {damaged.name} reads back damaged", found)

    return write_table(directory, damaged.store_id, entries(), metadata, check)


def _has_any(sources: Sequence[Source], first_lsn: int, last_lsn: int) -> bool:
    return any(isinstance(piece, EntryBatch) for piece in merge(sources, first_lsn, last_lsn))
