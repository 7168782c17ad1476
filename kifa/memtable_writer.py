"""From memtables to a table: their entries, and what their control records say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from kifa import control
from kifa._memtable import Memtable
from kifa._typing import Any
from kifa.errors import Damage
from kifa.sstable_format import TableInfo, TableMetadata
from kifa.sstable_writer import write_table


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
    return write_table(directory, store_id, batches, metadata), metadata


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
