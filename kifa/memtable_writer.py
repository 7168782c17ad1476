"""From memtables to a table: their entries, and what their control records say."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from kifa import control
from kifa._memtable import Memtable
from kifa._typing import TYPE_CHECKING, Any
from kifa.errors import Damage
from kifa.sstable_format import TableInfo, TableMetadata
from kifa.sstable_writer import write_table

if TYPE_CHECKING:
    from kifa._batch import EntryBatch

# Compression is what a flush takes its time for; a second thread halves it where there is a processor for it.
WORTH_A_THREAD_BYTES = 1 << 20
# The second half waits in memory, compressed, until the first is written.
MAX_BESIDE_BYTES = 64 << 20


def write_memtables(
    directory: Path, store_id: bytes, memtables: Sequence[Memtable], damage: Iterable[Damage] = ()
) -> tuple[TableInfo, TableMetadata]:
    """Write ``memtables``, oldest first, as a new table in ``directory``; durable on return.

    Args:
        damage: what was already lost, to be recorded in the table.

    Raises:
        OSError: nothing but perhaps the complete table is left behind.
    """
    controls = [item for memtable in memtables for item in memtable.controls()]
    metadata = metadata_of(controls, tuple(damage))
    batches = [memtable.batch() for memtable in memtables]
    beside: list[EntryBatch] = []
    size_bytes = sum(memtable.size_bytes for memtable in memtables)
    if WORTH_A_THREAD_BYTES <= size_bytes <= MAX_BESIDE_BYTES and _processors() > 1:
        batches, beside = halves(batches)
    return write_table(directory, store_id, batches, metadata, beside=beside), metadata


def halves(batches: Sequence[EntryBatch]) -> tuple[list[EntryBatch], list[EntryBatch]]:
    """Split ``batches`` where half of their entries are before."""
    left = sum(map(len, batches)) // 2
    first: list[EntryBatch] = []
    second: list[EntryBatch] = []
    for batch in batches:
        here = min(left, len(batch))
        left -= here
        first += [batch.slice(0, here)] if here else []
        second += [batch.slice(here, len(batch))] if here < len(batch) else []
    return first, second


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def metadata_of(
    controls: Iterable[tuple[int, int, bytes]], damage: tuple[Damage, ...] = ()
) -> TableMetadata:
    """Return what control records (type, LSN, data), in the order of the log, say of the entries among them."""
    sources: dict[str, Any] = {}
    steps: list[tuple[int, int, int]] = []
    for kind, lsn, data in controls:
        if kind == control.SOURCE_CHECKPOINT:
            key, value = control.decode_source_checkpoint(data)
            sources[key] = value
        elif kind == control.CLOCK_STEP:
            steps.append((lsn, *control.decode_clock_step(data)))
    return TableMetadata(sources, tuple(steps), len(steps), damage)
