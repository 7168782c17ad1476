"""Recovery: what a store holds after whatever happened to it, so that a writer can go on.

    directories synced | temporaries | manifest | tables, which supersede which | WAL synced | judged, into memtables

Power may go at any point: recovery removes only temporaries and superseded tables, writes only complete tables under
their final names, and everything it reads is still there when it is run again.

A process may have died between a rename and the sync of its directory. What recovery does next would then build on a
name that is not there after a power loss: inputs deleted whose joined table is gone, an old segment overwritten that
was to be a spare. So the directories are synced before anything else. The content of what has a final name was synced
before it got it; only segments grow under their names, and those are synced before they are read (the lock sees to it
that nothing comes in between).

The manifest is published when the log is open already (`engine.py`): until then it is the one of before, as after a
rotation that was followed by a power loss.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from pathlib import Path

from kifa import control
from kifa._batch import EntryBatch
from kifa._memtable import Memtable
from kifa._typing import Any, NamedTuple
from kifa.errors import Damage
from kifa.fs import NO_SPACE, list_names, remove_temporaries, sync_directory
from kifa.identity import find_store_id
from kifa.judgement import LogSurvey, lost_for_good, survey_log
from kifa.manifest import Manifest, read_manifest
from kifa.memtable_writer import metadata_of, write_memtables
from kifa.segment_pool import LiveSegment
from kifa.segments import (
    DATA_OFFSET,
    RECORD_OVERHEAD,
    WAL_DIRECTORY,
    LogPosition,
)
from kifa.sstable import ForeignTableError, Table
from kifa.sstable_format import (
    MAX_U64,
    TABLE_DIRECTORY,
    TableInfo,
    merge_metadata,
    parse_table_name,
)
from kifa.sstable_writer import write_table

log = logging.getLogger(__name__)

# Recovered memtables beyond these are written to tables at once, so that recovery's memory is bounded.
MAX_RECOVERED_MEMTABLES = 2
# From this on a thread reads ahead of what is checked and copied into memory.
LARGE_LOG_SIZE_BYTES = 64 << 20
# MAX_FROZEN of the writer (kifa/_group.pxd), and its active one.
MAX_ADOPTED_MEMTABLES = 5


class LastGroup(NamedTuple):
    """The last group of a log that was not closed, which nothing on disk proves to be durable.

    Its sync may have failed, and then no later one need write it, though it can be read. So it is written once more.
    ``controls`` are (type, LSN, timestamp in ms, data).
    """

    entries: EntryBatch
    controls: list[tuple[int, int, int, bytes]]


class Recovered:
    """What the writer starts from."""

    def __init__(self, store_id: bytes) -> None:
        self.store_id = store_id
        self.generation = 0
        self.checkpoint_end: LogPosition | None = None
        self.next_lsn = 1
        self.tables: list[TableInfo] = []
        self.damaged_tables: set[str] = set()
        self.memtables: list[Memtable] = []
        self.sources: dict[str, Any] = {}
        self.live: list[LiveSegment] = []
        self.damage: list[Damage] = []
        self.torn_tail: Damage | None = None
        self.unproven: LastGroup | None = None

    @property
    def checkpoint_lsn(self) -> int:
        """Every LSN up to it is in a table, or known to be lost."""
        return max((table.max_lsn for table in self.tables), default=0)


def recover(store: Path, memtable_threshold_bytes: int) -> Recovered:
    """Bring ``store`` into a state from which a writer can go on. The caller holds the writer's lock.

    Args:
        memtable_threshold_bytes: no recovered memtable grows much beyond this.

    Raises:
        OSError: the disk cannot be read or written; nothing was lost by trying.
    """
    for directory in (store, store / WAL_DIRECTORY, store / TABLE_DIRECTORY):
        sync_directory(directory)
        remove_temporaries(directory)
    manifest, damage = read_manifest(store)
    state = Recovered(manifest.store_id if manifest else find_store_id(store) or os.urandom(16))
    if damage is not None:
        state.damage.append(damage)
    if manifest is not None:
        state.generation = manifest.generation
        state.checkpoint_end = manifest.checkpoint_end
        state.damage.extend(manifest.damage)
    _recover_tables(store, state, manifest)
    _recover_log(store, state, manifest, memtable_threshold_bytes)
    state.damage = _distinct(state.damage)
    return state


def _distinct(damage: list[Damage]) -> list[Damage]:
    """Drop what repeats earlier damage: a range that was lost once is found missing at every start."""
    kept: list[Damage] = []
    for lost in damage:
        if lost.first_lsn is None or lost.last_lsn is None:
            known = any(lost.file == k.file and lost.kind == k.kind for k in kept)
        else:
            known = any(
                k.first_lsn is not None
                and k.last_lsn is not None
                and k.first_lsn <= lost.first_lsn
                and lost.last_lsn <= k.last_lsn
                for k in kept
            )
        if not known:
            kept.append(lost)
    return kept


def _recover_tables(store: Path, state: Recovered, manifest: Manifest | None) -> None:
    """Fill ``state.tables`` and what their metadata says; delete what is superseded."""
    directory = store / TABLE_DIRECTORY
    found: list[Table] = []
    for name in list_names(directory):
        if parse_table_name(name) is None:
            continue
        try:
            found.append(Table(directory / name, state.store_id, keep_open=False))
        except ForeignTableError as error:
            reason = str(error)
            state.damage.append(
                Damage("corruption", f"{TABLE_DIRECTORY}/{name}", 0, None, None, reason)
            )
    found.sort(key=lambda table: (table.info.min_lsn, -table.info.max_lsn))
    kept: list[Table] = []
    superseded: list[Table] = []
    for table in found:
        if kept and table.info.max_lsn <= kept[-1].info.max_lsn:
            superseded.append(table)
        else:
            kept.append(table)
    for container in kept:
        _supersede(directory, [t for t in superseded if _contains(container, t)], container)
        _ = container.metadata
        if container.damage:
            state.damaged_tables.add(container.name)
            state.damage.extend(container.damage)
    if manifest is not None:
        # The damage of blocks, which nobody reads here, is known from those that could not be mended.
        unmended = {table.name for table in manifest.unmended}
        state.damaged_tables |= unmended & {table.name for table in kept}
    state.tables = [table.info for table in kept]
    state.damage.extend(merge_metadata(table.metadata for table in kept).damage)
    if manifest is not None:
        # It knows what the tables it covers do, also where the metadata of one is damaged; later ones know more.
        covered = [table for table in kept if table.max_lsn <= manifest.checkpoint_lsn]
        state.sources = {
            **merge_metadata(table.metadata for table in covered).sources,
            **manifest.sources,
        }
        kept = kept[len(covered) :]
    state.sources |= merge_metadata(table.metadata for table in kept).sources
    for table in found:
        table.close()


def _contains(container: Table, table: Table) -> bool:
    return container.min_lsn <= table.min_lsn and table.max_lsn <= container.max_lsn


def _supersede(directory: Path, inputs: list[Table], container: Table) -> None:
    """Delete the inputs of the compaction that wrote ``container``, once every byte of that is proven to be whole.

    Where it has rotted since, they may have what it lost: `TableSet.mend` makes one of them all.
    """
    if not inputs:
        return
    container.damage = container.verify()
    if container.damage:
        return
    for table in inputs:
        # A table that was missing when its neighbours were joined, and is back, is not in what they became.
        if container.info.entries == container.max_lsn - container.min_lsn + 1:
            (directory / table.name).unlink()
            log.info("removed %s: all of it is in %s", table.name, container.name)


def _recover_log(
    store: Path, state: Recovered, manifest: Manifest | None, memtable_threshold_bytes: int
) -> None:
    """Read what only the WAL has; find out what nobody has."""
    holes = list(_holes(state.tables))
    checkpoint = state.checkpoint_lsn
    above = min(checkpoint, holes[0][0] - 1) if holes else checkpoint
    start = state.checkpoint_end
    with survey_log(
        store,
        above_lsn=above,
        store_id=state.store_id,
        known_sizes=manifest.segment_sizes() if manifest else None,
        later=True,
        start=start if start is not None and start.lsn <= above else None,
    ) as survey:
        for view in survey.views:
            # After a process crash these bytes may be in the page cache only, and we build on them.
            view.file.sync()
        if holes:
            survey.judge()
            _fill_holes(store, state, survey, holes)
        to_read = [view.file.size_bytes for view in survey.views if view.judge_later is not None]
        ahead = sum(to_read) >= LARGE_LOG_SIZE_BYTES
        extents = _read_above(survey, checkpoint, ahead)
        with closing(extents):
            for batch, controls in extents:
                if batch is not None:
                    _recover_batch(store, state, batch, memtable_threshold_bytes)
                _recover_controls(state, controls, checkpoint)
        if not state.memtables:
            state.memtables.append(Memtable())
        state.torn_tail = survey.torn_tail
        state.unproven = _unproven_group(survey)
        state.damage.extend(lost_for_good(survey.damage, _ranges(state.tables)))
        state.live = [
            LiveSegment(
                store / view.file.name,
                view.file.first_lsn,
                view.file.header.sequence if view.file.header else 0,
                view.file.size_bytes,
            )
            for view in survey.views
        ]
        end = max(survey.end_lsn, checkpoint)
        state.next_lsn = end + 1 + survey.end_may_be_lost
    _name_missing_files(state, manifest, end)


def _holes(tables: list[TableInfo]) -> Iterator[tuple[int, int]]:
    """Yield the LSN ranges below the checkpoint that no table covers."""
    expected = 1
    for table in tables:
        if table.min_lsn > expected:
            yield expected, table.min_lsn - 1
        expected = max(expected, table.max_lsn + 1)


def _fill_holes(
    store: Path, state: Recovered, survey: LogSurvey, holes: list[tuple[int, int]]
) -> None:
    """Write what the WAL still has of LSNs that no table covers (a table was lost) to tables of their own."""
    for first, last in holes:
        batches = [batch for view in survey.views for batch in view.batches(first, last)]
        if batches:
            controls = [
                (kind, lsn, data)
                for view in survey.views
                if view.scanner is not None
                for kind, lsn, _, data in view.controls()
                if first <= lsn <= last
            ]
            directory, metadata = store / TABLE_DIRECTORY, metadata_of(controls)
            state.tables.append(write_table(directory, state.store_id, batches, metadata))
            log.warning("LSNs %d to %d were in no table; taken from the WAL", first, last)
    state.tables.sort(key=lambda table: table.min_lsn)


_Read = tuple[EntryBatch | None, list[tuple[int, int, int, bytes]]]


def _read_above(survey: LogSurvey, lsn: int, ahead: bool) -> Generator[_Read, None, None]:
    """Yield, extent by extent, the entries above ``lsn`` (None if there are none) and all control records."""
    for view, extent, walked in survey.read_through(ahead):
        above = extent.entries and extent.last_lsn > lsn
        batch = view.read(extent, walked).within(lsn + 1, MAX_U64) if above else None
        yield batch if batch else None, view.controls_in(extent, walked)


def _recover_batch(
    store: Path, state: Recovered, batch: EntryBatch, memtable_threshold_bytes: int
) -> None:
    """Put a batch into the memtables; memory stays bounded."""
    memtable = state.memtables[-1] if state.memtables else None
    follows = memtable is not None and (
        memtable.count == 0 or batch.first_lsn == memtable.last_lsn + 1
    )
    full = memtable is None or not follows or memtable.size_bytes >= memtable_threshold_bytes
    room = len(state.memtables) < MAX_RECOVERED_MEMTABLES
    if full and (room or _make_room(store, state, follows)):
        memtable = Memtable()
        state.memtables.append(memtable)
    assert memtable is not None
    memtable.extend(batch)


def _make_room(store: Path, state: Recovered, follows: bool) -> bool:
    """Write the memtables to a table; return whether there is room for another one.

    On a full disk they stay in memory, as many as the writer takes over, and the last one grows: what only the WAL
    has is bounded by what the writer let wait before.
    """
    try:
        info, _ = write_memtables(store / TABLE_DIRECTORY, state.store_id, state.memtables)
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise
        if len(state.memtables) < MAX_ADOPTED_MEMTABLES:
            return True
        if follows:
            return False
        raise
    state.tables.append(info)
    state.memtables.clear()
    return True


def _unproven_group(survey: LogSurvey) -> LastGroup | None:
    view = survey.views[-1] if survey.views else None
    if view is None or view.scanner is None or view.last_group is None or survey.closed:
        return None
    if not view.last_group.entries or survey.end_may_be_lost:
        return None
    return LastGroup(view.read(view.last_group), view.scanner.read_controls(view.last_group))


def _recover_controls(
    state: Recovered, controls: Iterable[tuple[int, int, int, bytes]], checkpoint_lsn: int
) -> None:
    """Put control records into the memtable of the entries among which they stand: both come to the same table.

    Those of entries that a table has came to it with them.
    """
    for kind, lsn, _, data in controls:
        if kind == control.CLOSE or lsn < checkpoint_lsn:
            continue
        if kind == control.SOURCE_CHECKPOINT:
            key, value = control.decode_source_checkpoint(data)
            state.sources[key] = value
        if not state.memtables:
            state.memtables.append(Memtable())
        state.memtables[-1].add_control(kind, lsn, data)


def _ranges(tables: list[TableInfo]) -> list[tuple[int, int]]:
    return [(table.min_lsn, table.max_lsn) for table in tables]


def _name_missing_files(state: Recovered, manifest: Manifest | None, end_lsn: int) -> None:
    """Report files that the manifest lists and that are gone, and step over the LSNs they may have held."""
    if manifest is None:
        return
    in_memory = [(m.first_lsn, m.last_lsn) for m in state.memtables if m.count]
    covered = _ranges(state.tables) + in_memory
    for table in manifest.tables:
        lost = Damage(
            "missing file",
            f"{TABLE_DIRECTORY}/{table.name}",
            None,
            table.min_lsn,
            table.max_lsn,
            "the manifest lists this table, and it is gone",
        )
        state.damage.extend(lost_for_good([lost], covered))
    names = {f"{WAL_DIRECTORY}/{segment.path.name}" for segment in state.live}
    newest = max((segment.first_lsn for segment in state.live), default=0)
    for segment in manifest.segments:
        if segment.name not in names and segment.first_lsn > newest:
            capacity = (segment.size_bytes - DATA_OFFSET) // RECORD_OVERHEAD
            last = segment.first_lsn + capacity - 1
            reason = "the manifest lists this segment, and it is gone"
            first = max(segment.first_lsn, end_lsn + 1)
            state.damage.append(Damage("missing file", segment.name, None, first, last, reason))
            state.next_lsn = max(state.next_lsn, last + 1)
