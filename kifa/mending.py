"""Mending a damaged table: written anew, with what other files still have of the entries it lost.

What is on disk if power goes between the steps:

    write the new one | sync, rename | publish manifest | delete the damaged one and what else the new one holds
    ^ what there was  ^ both, or the new one in place of the damaged one  ^ the new one, perhaps the others

Every entry of the new one was verified where it was read; what no file has stays missing, and is recorded in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from kifa._batch import EntryBatch
from kifa._merge import MissingRange, merge
from kifa._typing import TYPE_CHECKING, Any
from kifa.errors import Damage
from kifa.sstable_format import TableInfo, TableMetadata, merge_metadata
from kifa.sstable_writer import write_table

if TYPE_CHECKING:
    from kifa._merge import Source
    from kifa.judgement import SegmentView
    from kifa.sstable import Table


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


def mend_table(
    directory: Path, damaged: Table, inputs: Sequence[Table], log: Sequence[Source]
) -> TableInfo | None:
    """Write ``damaged`` anew in ``directory``; return None where nothing of what it lost is left, or nothing is lost.

    Args:
        inputs: tables within its range: a compaction that died did not delete them.
        log: sources of what the WAL still has.

    Raises:
        OSError: the new table could not be written. Nothing has changed.
    """
    lost = [
        (place.first_lsn, place.last_lsn)
        for place in damaged.verify()
        if place.first_lsn is not None and place.last_lsn is not None
    ]
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
    return write_table(directory, damaged.store_id, _entries([damaged, *others], damaged), metadata)


def _has_any(sources: Sequence[Source], first_lsn: int, last_lsn: int) -> bool:
    return any(isinstance(piece, EntryBatch) for piece in merge(sources, first_lsn, last_lsn))


def _entries(sources: Sequence[Source], table: Table) -> Iterator[EntryBatch]:
    for piece in merge(sources, table.min_lsn, table.max_lsn):
        if isinstance(piece, EntryBatch):
            yield piece
