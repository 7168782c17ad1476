"""The log: the write path on one screen, and the two threads behind it.

    append -> LogWriter (frame, group commit) -> durable, acknowledged
                  | segment full                 | memtable full
                  v                              v
              rotate                          flush thread: memtable -> table -> manifest -> recycle segments
                                                                 | enough tables of one size
                                                                 v
                                              compaction thread: tables -> table -> manifest -> delete inputs

What is on disk between any two steps stands at the tops of `table_set.py` (flush), `compaction.py`, `segment_pool.py`
(rotation), `_group.pyx` (a group) and `recovery.py`.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType

from kifa import control
from kifa._lines import LineBuffer
from kifa._memtable import Memtable
from kifa._record import frame_group
from kifa._typing import TYPE_CHECKING, Any, Self
from kifa._wal import LogWriter, SegmentFull
from kifa.errors import Damage, KifaError, NoSpaceError, PoisonedError, UsageError
from kifa.fs import NO_SPACE, WriterLock, make_directory, make_directory_durably
from kifa.priority import step_back
from kifa.recovery import LastGroup, Recovered, recover
from kifa.segment_pool import SegmentPool
from kifa.segments import DATA_OFFSET, FLUSH_MODES, WAL_DIRECTORY
from kifa.sstable_format import TABLE_DIRECTORY
from kifa.table_set import TableSet

if TYPE_CHECKING:
    from kifa._senders import Sender, Senders

log = logging.getLogger(__name__)

MIB = 1 << 20
MAX_GROUP_SIZE_BYTES = MIB
# A flush is due when more segments than these are live, so that reopening stays fast whatever was written.
MAX_LIVE_SEGMENTS = 4
# With so many, one that is to be used next comes from a flush; with fewer, a new one is prepared.
FLUSHED_LIVE_SEGMENTS = 3
# Groups of the library are bounded by their size; this keeps the memory of an index of empty entries bounded.
DEFAULT_MAX_GROUP_ENTRIES = 16_384
RETRY_SECONDS = 1.0
# Joined also while the log is being closed: a few take milliseconds.
SMALL_TABLE_SIZE_BYTES = MIB
# Batches of so many are framed while the committer syncs what was framed before.
PIPELINED_ITEMS = 1_000


class Log:
    """A log open for writing. Use `kifa.open`; threads may share one."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        flush_mode: str = "cautious",
        segment_size_mib: int = 16,
        memtable_flush_threshold_mib: int = 4,
        compaction_threshold: int = 4,
        compaction_enabled: bool = True,
        channel_capacity: int = DEFAULT_MAX_GROUP_ENTRIES,
    ) -> None:
        """Open the log in the directory ``path``, creating or recovering it.

        Args:
            flush_mode: "cautious" (default) and "emergency": `append` returns when the entry is durable;
                "normal": at once, with at most 49 entries not yet durable.
            segment_size_mib: size of a WAL segment in MiB, at least 1.
            memtable_flush_threshold_mib: entries are moved to a table when they take this much memory, in MiB.
            compaction_threshold: how many tables of one size are joined to one, at least 2.
            compaction_enabled: whether tables are joined at all.
            channel_capacity: most entries in one group.

        Raises:
            UsageError: a value is out of bounds.
            LockedError: another process writes to this log.
            UnwritableError: the directory cannot be created or written.
            NoSpaceError: there is no room for a WAL segment.
        """
        _check_bounds(
            flush_mode,
            segment_size_mib=(segment_size_mib, 1),
            memtable_flush_threshold_mib=(memtable_flush_threshold_mib, 1),
            compaction_threshold=(compaction_threshold, 2),
            channel_capacity=(channel_capacity, 1),
        )
        self.path = Path(path)
        self._mode = flush_mode
        self._compaction_enabled = compaction_enabled
        self._memtable_threshold = memtable_flush_threshold_mib * MIB
        make_directory_durably(self.path)
        self._lock = WriterLock(self.path / "lock")
        self._descriptor = -1
        try:
            self._open(segment_size_mib * MIB, channel_capacity, compaction_threshold)
        except BaseException as error:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._lock.release()
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                raise NoSpaceError(
                    f"no room to open the log in {self.path}; free some space, or only read it",
                    file=str(self.path),
                ) from error
            raise

    def _open(
        self, segment_size_bytes: int, channel_capacity: int, compaction_threshold: int
    ) -> None:
        for name in (WAL_DIRECTORY, TABLE_DIRECTORY):
            make_directory(self.path / name)  # recovery syncs the store
        recovered = recover(self.path, self._memtable_threshold)
        self.store_id = recovered.store_id
        self.sources: dict[str, Any] = recovered.sources
        """The latest checkpoint of each source, durable or not."""
        self.damage: list[Damage] = recovered.damage
        """What recovery found damaged or lost, in this and earlier runs."""
        self.torn_tail = recovered.torn_tail
        self._flush_done = threading.Condition()
        self._flush_rounds = 0
        self._rotation_lock = threading.Lock()
        self._compaction_wanted = threading.Event()
        self._closing = threading.Event()
        self._closed = False
        self._failure: BaseException | None = None
        self._flushed_for_sequence = 0  # the segment for whose successor a flush was asked
        self._pool = SegmentPool(self.path, self.store_id, segment_size_bytes, recovered.live)
        self._tables = TableSet(self.path, recovered, self._pool, compaction_threshold)
        self._writer = LogWriter(
            next_lsn=recovered.next_lsn,
            memtable_threshold_bytes=self._memtable_threshold,
            max_group_size_bytes=min(MAX_GROUP_SIZE_BYTES, segment_size_bytes - 3 * 4096),
            max_group_entries=channel_capacity,
            normal=self._mode == "normal",
        )
        last = recovered.memtables[-1]
        ends_before_next = last.count > 0 and last.last_lsn + 1 < recovered.next_lsn
        for memtable in recovered.memtables:
            self._writer.adopt(memtable)
        self._threads: list[threading.Thread] = []
        self._start_lock = threading.Lock()
        self._process_id = os.getpid()
        self._rotate_first(recovered)
        self._writer.resume()
        if (
            len(self._pool.live) > MAX_LIVE_SEGMENTS
            or ends_before_next
            or self._mode == "emergency"
        ):
            self._writer.request_freeze()
        # Opening need not wait for the manifest, in which nothing lives alone, nor for a damaged table to be mended.
        self._writer.wake_background()
        for line in recovered.damage:
            log.warning("%s", line)
        if recovered.torn_tail is not None:
            log.info("%s", recovered.torn_tail)
        self._start("kifa-flush", self._run_flushes)
        self._start("kifa-compact", self._run_compactions)
        if self._mode == "normal":
            self.start_committer()
        self._compaction_wanted.set()

    # ---- the write path ----------------------------------------------------------------------------------

    def append(self, data: bytes | bytearray | memoryview) -> int:
        """Log one entry and return its LSN; but in normal mode, it is durable then.

        Raises:
            EntryTooLargeError: it is larger than 1 MiB.
            NoSpaceError: the disk is full; the entry was not accepted. Append again once there is space.
            PoisonedError: a sync failed; whether this entry is on disk will be known after reopening.
            ClosedError, ForkedError: this log cannot be used (here).
        """
        while True:
            try:
                return self._writer.append(data)
            except SegmentFull:
                self._rotate()

    def append_many(self, items: Iterable[bytes | bytearray | memoryview]) -> range:
        """Log all ``items`` in order, in as few groups as the bounds allow, and return the range of their LSNs.

        All of them are durable then, in every flush mode. After an error those before it are durable.

        Raises:
            as `append`.
        """
        batch = list(items)
        first_lsn = self._writer.begin_batch()
        try:
            if len(batch) >= PIPELINED_ITEMS:
                self.start_committer()
            done = 0
            while done < len(batch):
                try:
                    done += self._writer.append_many(batch, done)
                except SegmentFull:
                    self._rotate()
        finally:
            self._writer.end_batch()
        return range(first_lsn, first_lsn + len(batch))

    def sync(self) -> None:
        """Return when everything appended so far is durable. Raises as `append`."""
        self._writer.check_usable()
        self._writer.commit()

    def _rotate(self) -> None:
        """Make room for the record that did not fit, unless another thread just has."""
        with self._rotation_lock:
            self._writer.check_usable()  # it may have been closed since: then the store is another writer's
            if self._writer.fits:
                return
            self._writer.quiesce()
            try:
                if not self._writer.fits:
                    self._rotate_to(self._writer.needed_segment_size_bytes)
            finally:
                self._writer.resume()
        if len(self._pool.live) > MAX_LIVE_SEGMENTS:
            self._writer.request_freeze()
        self._writer.wake_background()

    def _rotate_to(self, min_size_bytes: int, again: LastGroup | None = None) -> None:
        first_lsn = self._writer.last_lsn + 1
        first_group: Callable[[int], bytearray] | None = None
        if again is not None:
            first_lsn = again.entries.first_lsn
            first_group = partial(frame_group, again.entries, again.controls)
            min_size_bytes = DATA_OFFSET + len(first_group(0))
        try:
            segment = self._pool.rotate(first_lsn, self._mode, min_size_bytes, first_group)
        except PoisonedError:
            self._writer.poison_with(errno.EIO)
            raise
        self._writer.use_segment(
            segment.descriptor, segment.salt, segment.size_bytes, segment.end_offset
        )
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = segment.descriptor

    @property
    def durable_lsn(self) -> int:
        """The highest LSN that is known to survive a power loss; 0 in an empty log."""
        return self._writer.durable_lsn

    @property
    def last_lsn(self) -> int:
        """The highest LSN given to an entry; 0 in an empty log."""
        return self._writer.last_lsn

    @property
    def flush_mode(self) -> str:
        """The flush mode in force."""
        return self._mode

    def set_flush_mode(self, flush_mode: str) -> None:
        """Change the flush mode. "emergency" also pauses compaction and flushes the memtable at once."""
        _check_bounds(flush_mode)
        self._mode = flush_mode
        if flush_mode == "normal":
            self.start_committer()
        self._writer.set_normal(flush_mode == "normal")
        if flush_mode == "emergency":
            self._writer.request_freeze()
        else:
            self._compaction_wanted.set()

    # ---- for the daemon: framing and commit apart ------------------------------------------------------------

    def frame_lines(self, lines: LineBuffer, hold: bool = False) -> tuple[int, int, int, int]:
        """Frame whole lines without waiting for their sync; see `LogWriter.frame_lines`."""
        while True:
            try:
                return self._writer.frame_lines(lines, hold)
            except SegmentFull:
                self._rotate()

    def receive(self, senders: Senders, may_frame: bool) -> tuple[int, list[Sender], list[Sender]]:
        """Read from ``senders`` and frame their lines; see `Senders.receive`."""
        return senders.receive(self._writer, may_frame)

    def frame_entry(self, data: bytes | bytearray | memoryview) -> int:
        """Frame one entry without waiting for its sync, and return its LSN. Raises as `append`."""
        while True:
            try:
                return self._writer.frame_entry(data)
            except SegmentFull:
                self._rotate()

    def frame_source_checkpoint(self, key: str, value: Any) -> None:
        """Record how far a source was read, in the group of the lines that were framed with ``hold``."""
        data = control.encode_source_checkpoint(key, value)
        while True:
            try:
                self._writer.frame_control(control.SOURCE_CHECKPOINT, data)
                break
            except SegmentFull:
                self._rotate()
        self.sources[key] = value

    def request_commit(self) -> None:
        """Have what is framed made durable in the background; `notify_on` tells when."""
        self._writer.request_commit()

    def check_usable(self) -> None:
        """Raise what `append` would: ForkedError, PoisonedError, ClosedError; or return."""
        self._writer.check_usable()

    def notify_on(self, event_descriptor: int) -> None:
        """Add 1 to this eventfd when the committer made a group durable, or could not; -1 ends it."""
        self._writer.notify_on(event_descriptor)

    def start_committer(self) -> None:
        """Start the thread that makes groups durable while the next one is framed. Idempotent."""
        with self._start_lock:
            if not any(thread.name == "kifa-commit" for thread in self._threads):
                self._start("kifa-commit", self._writer.run_committer)

    def _start(self, name: str, body: Callable[[], None]) -> None:
        thread = threading.Thread(target=body, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    # ---- flush -------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Move everything appended so far into a table, and return when that is published.

        Raises:
            OSError, NoSpaceError: the table could not be written; the entries are safe in the WAL.
            PoisonedError, ClosedError, ForkedError: as `append`.
        """
        self._writer.check_usable()
        self._writer.commit()
        last_lsn = self._writer.durable_lsn
        with self._flush_done:
            rounds = self._flush_rounds
            while self._writer.oldest_unflushed_lsn <= last_lsn:
                self._writer.request_freeze()
                self._flush_done.wait(RETRY_SECONDS)
                if self._failure is not None and self._flush_rounds > rounds:
                    raise self._failure
                self._writer.check_usable()

    def _run_flushes(self) -> None:
        step_back()
        timeout_seconds = -1.0
        while True:
            self._writer.wait_for_background_work(timeout_seconds)
            try:
                self._flush_ready()
                self._prepare()
                due_seconds = self._tables.mending_due_seconds
                timeout_seconds = -1.0 if due_seconds is None else due_seconds
                if self._failure is not None:
                    self._failure = None
                    self._writer.flush_failed(0)
            except Exception as error:  # whatever it is, the log goes on and its callers are told
                # The WAL has everything; writers are told when it is full. Try again until it works.
                log.error("flush failed: %s; trying again", error, exc_info=_is_bug(error))
                self._failure = error
                self._writer.flush_failed(getattr(error, "errno", None) or errno.EIO)
                timeout_seconds = 0.0
            with self._flush_done:
                self._flush_rounds += 1
                self._flush_done.notify_all()
            if self._closing.wait(0.0 if self._failure is None else RETRY_SECONDS):
                return

    def _flush_ready(self) -> None:
        """Write the frozen memtables to one table, publish it, and recycle the segments below."""
        memtables = self._writer.flushable()
        for run in _consecutive(memtables):
            self._tables.add(run)
            self._writer.release(len(run))
        # What a damaged table lost may be in a segment that would be recycled now.
        mended = self._tables.mend()
        if memtables or mended:
            self._recycle()
            self._compaction_wanted.set()

    def _recycle(self) -> None:
        """Recycle the segments that tables have superseded, but those that may have what a damaged table lost."""
        self._pool.recycle_through(self._tables.checkpoint_lsn, self._tables.unmended_ranges)

    def _rotate_first(self, recovered: Recovered) -> None:
        """Bring the first segment of this run into use; on a full disk, one of which tables have every entry."""
        try:
            self._rotate_to(0, recovered.unproven)
        except NoSpaceError:
            self._recycle()
            self._rotate_to(0, recovered.unproven)

    def _prepare(self) -> None:
        """Have the manifest know the live segments, and the next rotation find one."""
        self._tables.publish_segments()
        if not self._writer.is_half_full or not self._pool.needs_spare or self._closing.is_set():
            return
        live = self._pool.live
        if len(live) >= FLUSHED_LIVE_SEGMENTS and live[-1].sequence != self._flushed_for_sequence:
            # A table is a small part of what they hold, and a new segment is all of its size in zeros.
            self._flushed_for_sequence = live[-1].sequence
            self._writer.request_freeze()
            return
        try:
            self._pool.prepare_spare(abandon=lambda: self._closing.is_set())
        except NoSpaceError as error:
            log.info("%s", error)

    # ---- compaction --------------------------------------------------------------------------------------

    def compact(self) -> None:
        """Join tables until nothing more is due, and return."""
        self._writer.check_usable()
        while self._tables.join_due():
            pass
        self._have_tables_mended()

    def _have_tables_mended(self) -> None:
        """Wake the flush thread if a table was found damaged."""
        if self._tables.mending_due_seconds == 0:
            self._writer.wake_background()

    def _run_compactions(self) -> None:
        step_back()
        while True:
            self._compaction_wanted.wait()
            self._compaction_wanted.clear()
            is_last = self._closing.is_set()
            try:
                while self._compaction_enabled and self._mode != "emergency":
                    # The end is short, but not without work: a log that is only ever open for moments would
                    # collect tables without bound.
                    largest = SMALL_TABLE_SIZE_BYTES if self._closing.is_set() else None
                    if not self._tables.join_due(largest):
                        break
            except Exception as error:  # as above
                # Compaction only saves space and time; the next flush will ask for it again.
                log.error("compaction failed: %s", error, exc_info=_is_bug(error))
            self._have_tables_mended()
            if is_last:
                return

    # ---- the end -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Make everything durable, mark the log as closed and let go of it. Idempotent.

        Raises:
            PoisonedError: a sync failed; what was not acknowledged may be lost.
        """
        if self._closed:
            return
        self._closed = True
        if self._process_id != os.getpid():
            os.close(self._descriptor)  # the parent's log goes on
            return
        try:
            with self._rotation_lock:
                self._writer.stop()
        finally:
            self._closing.set()
            self._writer.stop_committer()
            self._writer.wake_background()
            self._compaction_wanted.set()
            for thread in self._threads:
                thread.join()
            os.close(self._descriptor)
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _check_bounds(flush_mode: str, **settings: tuple[int, int]) -> None:
    if flush_mode not in FLUSH_MODES:
        raise UsageError(
            f"flush_mode is {flush_mode!r}; it must be one of {', '.join(FLUSH_MODES)}"
        )
    for name, (value, least) in settings.items():
        if not isinstance(value, int) or value < least:
            raise UsageError(f"{name} is {value!r}; it must be a whole number, {least} or more")


def _consecutive(memtables: list[Memtable]) -> list[list[Memtable]]:
    """Split where LSNs are missing: other tables may already have what lies between."""
    runs: list[list[Memtable]] = []
    for memtable in memtables:
        if runs and runs[-1][-1].last_lsn + 1 == memtable.first_lsn:
            runs[-1].append(memtable)
        else:
            runs.append([memtable])
    return runs


def _is_bug(error: Exception) -> bool:
    return not isinstance(error, OSError | KifaError)
