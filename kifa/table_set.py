"""The tables of an open store: which there are, adding those of flushes, joining those that are due.

What is on disk if power goes between the steps of a flush:

    write table | publish manifest | forget memtable, recycle segments
    ^ WAL       ^ WAL and table    ^ table (the WAL too, until it is overwritten)

Flush and compaction change the set only through `publish`, one at a time and as differences, so that two that finish
together both survive.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from kifa import compaction
from kifa._memtable import Memtable
from kifa._typing import Any
from kifa.errors import DamagedError, KifaError
from kifa.fs import list_names
from kifa.judgement import survey_log
from kifa.manifest import Manifest, ManifestSegment, ManifestTable, Unmended, write_manifest
from kifa.memtable_writer import write_memtables
from kifa.mending import SegmentSource, Waiting, lost_ranges, mend_table
from kifa.recovery import Recovered
from kifa.segment_pool import SegmentPool
from kifa.segments import LogPosition
from kifa.sstable import ForeignTableError, Table
from kifa.sstable_format import TABLE_DIRECTORY, TableInfo, parse_table_name
from kifa.sstable_writer import concatenate_tables

log = logging.getLogger(__name__)

MAX_REPORTED_DAMAGE = 1_000


class TableSet:
    """Owns the files in ``sst/`` and the manifest of an open store. Its methods may be called from any thread."""

    def __init__(
        self, store: Path, recovered: Recovered, pool: SegmentPool, compaction_threshold: int
    ) -> None:
        """Take over what recovery found; nothing is published yet."""
        self._store = store
        self._directory = store / TABLE_DIRECTORY
        self._store_id = recovered.store_id
        self._pool = pool
        self._compaction_threshold = compaction_threshold
        self._generation = recovered.generation
        self._tables = recovered.tables
        self._left_alone = recovered.damaged_tables
        self._to_mend = {
            table.name: Waiting(table)
            for table in recovered.tables
            if table.name in recovered.damaged_tables
        }
        self._unmended: tuple[Unmended, ...] = ()
        self._damage = recovered.damage
        self._unrecorded_damage = [d for d in recovered.damage if d.costs_entries]
        # Only those that a manifest may name: their lines are durable.
        self._sources: dict[str, Any] = dict(recovered.sources)
        self._hurried = False
        self._state_lock = threading.Lock()
        self._compaction_lock = threading.Lock()
        self._published_segments: tuple[ManifestSegment, ...] = ()
        self._checkpoint_end = recovered.checkpoint_end

    @property
    def checkpoint_lsn(self) -> int:
        """Every LSN up to it is in a table, or known to be lost."""
        with self._state_lock:
            return _checkpoint(self._tables)

    def add(self, memtables: list[Memtable]) -> None:
        """Write ``memtables``, whose LSNs are consecutive and durable, to one table and publish it.

        Raises:
            OSError: it could not be written or published.
        """
        info, metadata = write_memtables(
            self._directory, self._store_id, memtables, self._unrecorded_damage
        )
        self._sources |= metadata.sources
        salt, offset = memtables[-1].log_end
        end = LogPosition(info.max_lsn, salt, offset) if salt else None
        self.publish(added=[info], checkpoint_end=end)
        self._unrecorded_damage = []

    def publish(
        self,
        added: Iterable[TableInfo] = (),
        removed: Iterable[TableInfo] = (),
        checkpoint_end: LogPosition | None = None,
    ) -> None:
        """Change the set of tables and make it durable.

        Args:
            checkpoint_end: where in the log the entries end that are in tables now, if that has changed.

        Raises:
            OSError: the manifest could not be replaced.
        """
        with self._state_lock:
            gone = {table.name for table in removed}
            tables = [table for table in self._tables if table.name not in gone]
            tables = sorted([*tables, *added], key=lambda table: table.min_lsn)
            segments = self._pool.manifest_segments()
            manifest = Manifest(
                self._store_id,
                self._generation + 1,
                _checkpoint(tables),
                tuple(ManifestTable(t.name, t.min_lsn, t.max_lsn, t.entries) for t in tables),
                segments,
                dict(self._sources),
                tuple(self._damage[:MAX_REPORTED_DAMAGE]),
                self._unmended,
                checkpoint_end or self._checkpoint_end,
            )
            write_manifest(self._store, manifest)
            self._generation += 1
            self._tables = tables
            self._checkpoint_end = manifest.checkpoint_end
            self._published_segments = segments

    def publish_segments(self) -> None:
        """Publish the live segments, if they are not those that the manifest names. Raises as `publish`."""
        if self._pool.manifest_segments() != self._published_segments:
            self.publish()

    def hurry(self) -> None:
        """Let joins get in the way of the log from now on: it is being closed."""
        self._hurried = True

    def join_due(self, largest_size_bytes: int | None = None) -> bool:
        """Join the tables that are due first, if any are; return whether any were.

        Args:
            largest_size_bytes: leave larger ones alone.

        Raises:
            OSError: an input cannot be read, or the output cannot be written or published.
        """
        with self._compaction_lock:
            with self._state_lock:
                tables = list(self._tables)
            due = compaction.choose(
                [
                    None
                    if table.name in self._left_alone
                    or (largest_size_bytes is not None and table.size_bytes > largest_size_bytes)
                    else table
                    for table in tables
                ],
                self._compaction_threshold,
            )
            if due is None:
                return False
            self._join(tables[due])
            return True

    @property
    def mending_due_seconds(self) -> float | None:
        """How long until there is something to `mend`; None if nothing is known to be damaged."""
        return min((waiting.seconds_left for waiting in list(self._to_mend.values())), default=None)

    @property
    def unmended_ranges(self) -> list[tuple[int, int]]:
        """LSN ranges (inclusive) that damaged tables lost: segments with some of them must be kept."""
        return [lost for waiting in list(self._to_mend.values()) for lost in waiting.lost]

    def mend(self) -> bool:
        """Write damaged tables anew, as far as other files have what they lost. Before segments are recycled.

        One that cannot be mended now waits and is tried again, less and less often: what keeps it from being written
        may last, and must not keep the log from going on. The manifest says which wait, and why.

        Returns:
            Whether `unmended_ranges` have become fewer.
        """
        ranges = len(self.unmended_ranges)
        for name in [
            name for name, waiting in list(self._to_mend.items()) if not waiting.seconds_left
        ]:
            with self._compaction_lock:
                waiting = self._to_mend[name]
                try:
                    self._mend(name, waiting)
                except Exception as error:  # whatever it is, the log goes on
                    if waiting.postpone(getattr(error, "strerror", None) or str(error)):
                        is_bug = not isinstance(error, OSError | KifaError)
                        log.error(
                            "%s/%s cannot be mended yet: %s",
                            TABLE_DIRECTORY,
                            name,
                            error,
                            exc_info=is_bug,
                        )
                else:
                    del self._to_mend[name]
        self._record_unmended()
        return len(self.unmended_ranges) < ranges

    def _record_unmended(self) -> None:
        unmended = tuple(
            Unmended(name, waiting.lost, waiting.reason)
            for name, waiting in sorted(self._to_mend.items())
            if waiting.reason
        )
        if unmended != self._unmended:
            self._unmended = unmended
            with suppress(OSError):  # else the next manifest has it
                self.publish()

    def _mend(self, name: str, waiting: Waiting) -> None:
        with self._state_lock:
            known = [table for table in self._tables if table.name == name]
        if not known:
            return
        (damaged,) = known
        with ExitStack() as stack:
            table = stack.enter_context(Table(self._directory / name, self._store_id))
            damage = table.verify()
            if not damage:
                # A try before wrote it and could not publish it; or it could only not be read then.
                self.publish(added=[table.info], removed=[damaged])
                self._left_alone.discard(name)
                return
            waiting.lost = lost_ranges(damage)
            inputs = self._tables_within(damaged, stack)
            survey = stack.enter_context(
                survey_log(
                    self._store,
                    above_lsn=damaged.min_lsn - 1,
                    sync_newest=False,
                    store_id=self._store_id,
                )
            )
            views = [SegmentSource(view) for view in survey.views]
            mended = mend_table(self._directory, table, waiting.lost, inputs, views)
        if mended is None:
            return
        self.publish(added=[mended], removed=[damaged])
        self._left_alone.discard(name)
        for superseded in inputs:
            if superseded.name != mended.name:
                (self._directory / superseded.name).unlink()
        if name != mended.name:
            (self._directory / name).unlink()
        log.warning("%s was damaged; written anew as %s from other files", name, mended.name)

    def _tables_within(self, outer: TableInfo, stack: ExitStack) -> list[Table]:
        """Open the other tables on disk that lie within the range of ``outer``, until ``stack`` unwinds."""
        tables = []
        for name in list_names(self._directory):
            lsns = parse_table_name(name)
            if lsns is None or name == outer.name:
                continue
            if outer.min_lsn <= lsns[0] and lsns[1] <= outer.max_lsn:
                with suppress(ForeignTableError):
                    table = Table(self._directory / name, self._store_id)
                    tables.append(stack.enter_context(table))
        return tables

    def _join(self, inputs: list[TableInfo]) -> None:
        opened: list[Table] = []
        try:
            for info in inputs:
                opened.append(Table(self._directory / info.name, self._store_id))
            output = concatenate_tables(self._directory, opened, lambda: self._hurried)
        except DamagedError as error:
            log.error("compaction leaves damaged tables alone: %s", error)
            damaged = {t.name: Waiting(t) for t in opened if t.damage or t.verify()}
            self._left_alone |= damaged.keys()
            self._to_mend |= damaged
            return
        finally:
            for table in opened:
                table.close()
        self.publish(added=[output], removed=inputs)
        for info in inputs:
            (self._directory / info.name).unlink()


def _checkpoint(tables: list[TableInfo]) -> int:
    return max((table.max_lsn for table in tables), default=0)
