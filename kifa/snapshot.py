"""What a store holds at one moment, seen without a lock: manifest, open tables, judged WAL.

    tables | WAL above them, judged and synced | tables again, until the list stays the same

Whatever leaves the WAL was in a table before, so nothing can slip between the two. Files that vanish later stay
readable through their descriptors; a recycled segment is noticed by its salt, and the reader takes a new snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from kifa._typing import TYPE_CHECKING
from kifa.errors import Damage, KifaError
from kifa.fs import list_names, require_store
from kifa.identity import find_store_id
from kifa.judgement import LogSurvey, SegmentView, lost_for_good, survey_log
from kifa.manifest import Manifest, read_manifest
from kifa.segments import SegmentChanged
from kifa.sstable import ForeignTableError, SkippedRange, Table
from kifa.sstable_format import TABLE_DIRECTORY, parse_table_name

if TYPE_CHECKING:
    from kifa._batch import EntryBatch
    from kifa._merge import Source
    from kifa.sstable import OnDamage

MAX_ATTEMPTS = 100
# Without compaction there may be thousands, and a process may have 1,024 descriptors; the rest is opened when read.
MAX_OPEN_TABLES = 128
UNEXPLAINED = "gap"


class LogDamagedError(SegmentChanged):
    """A segment that was to be judged when it is read is damaged: look again, at all of them and twice."""


class SegmentSource:
    """One segment, as the merge wants it."""

    def __init__(self, view: SegmentView) -> None:
        self._view = view
        self.min_lsn = view.file.first_lsn
        self.max_lsn = view.last_lsn

    def batches(
        self,
        from_lsn: int,
        to_lsn: int,
        *,
        from_time: int,
        to_time: int,
        reverse: bool,
        on_damage: OnDamage | None,
    ) -> Iterator[EntryBatch | SkippedRange]:
        """Yield the entries that count; a `SkippedRange` for what the time range rules out."""
        if self._view.judge_later is not None and self._view.judge():
            raise LogDamagedError(self._view.file.name)
        for extent in self._view.extents_between(from_lsn, to_lsn, reverse):
            if extent.max_timestamp < from_time or extent.min_timestamp > to_time:
                first, last = max(extent.first_lsn, from_lsn), min(extent.last_lsn, to_lsn)
                yield SkippedRange(first, last)
                continue
            batch = self._view.read(extent).within(from_lsn, to_lsn)
            if batch.count:
                yield batch


class CheckpointedLogSource:
    """The part of the WAL that tables have as well: read only where one of those has lost something."""

    def __init__(self, snapshot: Snapshot, min_lsn: int, max_lsn: int) -> None:
        self._snapshot = snapshot
        self.min_lsn = min_lsn
        self.max_lsn = max_lsn

    def batches(
        self,
        from_lsn: int,
        to_lsn: int,
        *,
        from_time: int,
        to_time: int,
        reverse: bool,
        on_damage: OnDamage | None,
    ) -> Iterator[EntryBatch]:
        """Judge the old segments as well, and yield what they have."""
        store, store_id = self._snapshot.store, self._snapshot.store_id
        with survey_log(store, above_lsn=from_lsn - 1, store_id=store_id) as log:
            for view in reversed(log.views) if reverse else log.views:
                yield from view.batches(from_lsn, to_lsn, reverse)


class Snapshot:
    """A consistent view of a store. Use as a context manager, or `close` it."""

    def __init__(self, store: Path, *, whole_log: bool = False, lazily: bool = False) -> None:
        """Look at the store once.

        Args:
            whole_log: judge also the segments that tables have superseded.
            lazily: judge of the log only the newest segment now, and load no index; what reads one of the other
                segments may raise `LogDamagedError`.

        Raises:
            FileNotFoundError, SegmentChanged: a writer changed the store meanwhile; try again (see `take`).
        """
        self.store = store
        self.tables: list[Table] = []
        self.damage: list[Damage] = []  # what is wrong now; blocks report theirs when they are read
        self.recorded: list[Damage] = []  # what writers found lost, and wrote down
        self.manifest: Manifest | None
        self.manifest, damaged_manifest = read_manifest(store)
        if damaged_manifest is not None:
            self.damage.append(damaged_manifest)
        self.store_id = self.manifest.store_id if self.manifest else find_store_id(store)
        self.log = LogSurvey([])
        self._foreign: list[Damage] = []
        try:
            self._open_tables()
            above = 0 if whole_log else self.checkpoint_lsn
            sizes = self.manifest.segment_sizes() if self.manifest else None
            self.log = survey_log(
                store,
                above_lsn=above,
                store_id=self.store_id,
                known_sizes=sizes,
                lazily=lazily,
                thorough=whole_log,
            )
            while self._open_tables():
                pass
        except BaseException:
            self.close()
            raise
        self._collect_damage(lazily)

    @classmethod
    def take(cls, store: Path, *, whole_log: bool = False, lazily: bool = False) -> Snapshot:
        """Return a snapshot of ``store``, as soon as no writer interferes; for the arguments see the constructor.

        Damage is believed only if a second look finds the same: while a group is being written, a reader may see its
        end and not yet its start.

        Raises:
            NotAStoreError: there is no store.
            OSError: it cannot be read.
        """
        require_store(store)
        doubtful: list[Damage] | None = None
        for _ in range(MAX_ATTEMPTS):
            try:
                snapshot = cls(store, whole_log=whole_log, lazily=lazily)
            except (FileNotFoundError, SegmentChanged):
                continue
            if not snapshot.log.damage or snapshot.damage == doubtful:
                return snapshot
            doubtful = snapshot.damage
            snapshot.close()
        raise KifaError(f"{store} changes faster than it can be read; try again", file=str(store))

    def _open_tables(self) -> bool:
        """Open what is new in ``sst/`` and close what is gone; return whether anything was."""
        names = [
            name
            for name in list_names(self.store / TABLE_DIRECTORY)
            if parse_table_name(name) is not None
        ]
        known = {table.name for table in self.tables}
        known |= {Path(damage.file).name for damage in self._foreign if damage.file}
        if known == set(names) or self.store_id is None:
            return False
        for table in self.tables:
            if table.name not in names:
                table.close()
        self.tables = [table for table in self.tables if table.name in names]
        for name in names:
            if name in known:
                continue
            try:
                keep_open = len(self.tables) < MAX_OPEN_TABLES
                path = self.store / TABLE_DIRECTORY / name
                table = Table(path, self.store_id, keep_open=keep_open)
            except ForeignTableError as error:
                file = f"{TABLE_DIRECTORY}/{name}"
                self._foreign.append(Damage("corruption", file, 0, None, None, str(error)))
            else:
                self.tables.append(table)
        self.tables.sort(key=lambda table: (table.min_lsn, -table.max_lsn))
        return True

    def _collect_damage(self, lazily: bool) -> None:
        self.damage += self._foreign
        for table in self.tables:
            _ = table.metadata
            if not lazily:
                _ = table.index
            self.damage += table.damage
        self.damage += self._damage_of_log()
        self.damage += self._missing_files()
        for table in self.tables:
            self.recorded += table.metadata.damage
        if self.manifest is not None:
            self.recorded += self.manifest.damage

    def _damage_of_log(self) -> Iterator[Damage]:
        """Yield what is wrong in the WAL; that a segment is not there is wrong only where no table has its entries."""
        covered = [(table.min_lsn, table.max_lsn) for table in self.tables]
        for damage in self.log.damage:
            is_missing = damage.kind == "missing file"
            yield from lost_for_good([damage], covered) if is_missing else [damage]

    def _missing_files(self) -> Iterator[Damage]:
        """Name the files that the manifest lists, that are gone, and that no other file replaces."""
        if self.manifest is None:
            return
        there = {table.name for table in self.tables}
        for listed in self.manifest.tables:
            if listed.name in there:
                continue
            replaced = any(
                table.min_lsn <= listed.min_lsn and listed.max_lsn <= table.max_lsn
                for table in self.tables
            )
            if not replaced:
                file, reason = f"{TABLE_DIRECTORY}/{listed.name}", "the table is gone"
                yield Damage("missing file", file, None, listed.min_lsn, listed.max_lsn, reason)
        newest = max((view.file.first_lsn for view in self.log.views), default=0)
        for segment in self.manifest.segments:
            if segment.first_lsn > newest:
                reason = "the segment is gone, and nobody knows how much it held"
                yield Damage("missing file", segment.name, None, segment.first_lsn, None, reason)

    def causes(self) -> list[Damage]:
        """Return all that may explain why an LSN is missing, as far as it is known by now."""
        found_late = [damage for table in self.tables for damage in table.damage]
        return self.damage + self.recorded + found_late

    @property
    def checkpoint_lsn(self) -> int:
        """Every LSN up to it is in a table, or lost."""
        return max((table.max_lsn for table in self.tables), default=0)

    @property
    def end_lsn(self) -> int:
        """The highest LSN that the store accounts for; everything up to it is durable, or lost."""
        newest_start = self.log.views[-1].file.first_lsn if self.log.views else 1
        return max(self.checkpoint_lsn, self.log.end_lsn, newest_start - 1)

    @property
    def current_tables(self) -> list[Table]:
        """The tables that no other one contains."""
        current: list[Table] = []
        for table in self.tables:
            if not current or table.max_lsn > current[-1].max_lsn:
                current.append(table)
        return current

    def sources(self) -> list[Source]:
        """Return everything that has entries, the preferred first: large tables, then the WAL."""
        tables = sorted(self.tables, key=lambda table: table.min_lsn - table.max_lsn)
        sources: list[Source] = [*tables]
        for view in self.log.views:
            if view.last_lsn >= view.file.first_lsn:
                sources.append(SegmentSource(view))
        oldest = self.log.views[0].file.first_lsn if self.log.views else self.checkpoint_lsn + 1
        if oldest <= self.checkpoint_lsn:
            sources.append(CheckpointedLogSource(self, oldest, self.checkpoint_lsn))
        return sources

    def damage_behind_the_end(self) -> list[Damage]:
        """Return damage that may have cost entries behind the last one that is left."""
        return [
            damage._replace(first_lsn=max(damage.first_lsn, self.end_lsn + 1))
            for damage in self.damage
            if damage.first_lsn is not None
            and (damage.last_lsn is None or damage.last_lsn > self.end_lsn)
        ]

    def unmended(self) -> list[Damage]:
        """Return what damaged tables lost that the writer cannot mend yet: other files may have it."""
        unmended = self.manifest.unmended if self.manifest is not None else ()
        names = {table.name for table in self.tables}
        return [lost for table in unmended if table.name in names for lost in table.damage()]

    def close(self) -> None:
        """Close all files. Idempotent."""
        for table in self.tables:
            table.close()
        self.log.close()

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def explain_missing(missing: Iterable[tuple[int, int]], known: Iterable[Damage]) -> list[Damage]:
    """Return a `Damage` for each stretch of ``missing`` LSN ranges (inclusive), with the reason if one is known."""
    causes = [damage for damage in known if damage.first_lsn is not None]
    explained: list[Damage] = []
    for whole in missing:
        open_ranges = [whole]
        for cause in causes:
            still_open: list[tuple[int, int]] = []
            for first, last in open_ranges:
                low = max(first, cause.first_lsn or 0)
                high = last if cause.last_lsn is None else min(last, cause.last_lsn)
                if low > high:
                    still_open.append((first, last))
                    continue
                explained.append(cause._replace(first_lsn=low, last_lsn=high))
                still_open += [(first, low - 1)] if first < low else []
                still_open += [(high + 1, last)] if high < last else []
            open_ranges = still_open
        for first, last in open_ranges:
            explained.append(
                Damage(UNEXPLAINED, None, None, first, last, "no file has these entries")
            )
    return sorted(explained, key=lambda damage: damage.first_lsn or 0)


def add_range(ranges: list[tuple[int, int]], first_lsn: int, last_lsn: int) -> None:
    """Append an LSN range to ``ranges``, joined with the last one where they touch (in either direction)."""
    if ranges and ranges[-1][1] + 1 == first_lsn:
        ranges[-1] = (ranges[-1][0], last_lsn)
    elif ranges and last_lsn + 1 == ranges[-1][0]:
        ranges[-1] = (first_lsn, ranges[-1][1])
    else:
        ranges.append((first_lsn, last_lsn))
