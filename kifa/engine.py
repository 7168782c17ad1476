"""The log: the write path on one screen.

    append -> LogWriter (frame, group commit) -> durable, acknowledged
                  | segment full                 | memtable full
                  v                              v
              rotate                          flush, compaction: `background.py`

What is on disk between any two steps stands at the tops of `table_set.py` (flush), `compaction.py`, `segment_pool.py`
(rotation), `_group.pyx` (a group) and `recovery.py`.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType

from kifa import control
from kifa._lines import LineBuffer
from kifa._record import frame_group
from kifa._typing import TYPE_CHECKING, Any, Self
from kifa._wal import Batch, LogWriter, SegmentFull
from kifa.background import Background
from kifa.errors import Damage, NoSpaceError, PoisonedError, UsageError
from kifa.fs import NO_SPACE, WriterLock, make_directory, make_directory_durably
from kifa.interrupts import Apart
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
# Groups of the library are bounded by their size; this keeps the memory of an index of empty entries bounded.
DEFAULT_MAX_GROUP_ENTRIES = 16_384
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
        self._memtable_threshold = memtable_flush_threshold_mib * MIB
        make_directory_durably(self.path)
        self._owned = ExitStack()  # what the one writer has, in the order in which it was taken
        lock = WriterLock(self.path / "lock")
        try:
            self._owned.callback(lock.release)
            self._descriptor = -1
            self._owned.callback(self._close_descriptor)
            self._open(
                segment_size_mib * MIB, channel_capacity, compaction_threshold, compaction_enabled
            )
        except BaseException as error:
            self._owned.close()
            lock.release()
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                raise NoSpaceError(
                    f"no room to open the log in {self.path}; free some space, or only read it",
                    file=str(self.path),
                ) from error
            raise

    def _open(
        self,
        segment_size_bytes: int,
        channel_capacity: int,
        compaction_threshold: int,
        compaction_enabled: bool,
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
        self._rotation_lock = threading.Lock()
        self._rotate = Apart(self._rotate_now)
        self._end = Apart(self._close_now)
        self._closed = False
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
        self._background = Background(self._writer, self._pool, self._tables, compaction_enabled)
        self._owned.callback(self._background.stop)
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
        self._background.pause_compaction(self._mode == "emergency")
        self._background.start()
        if self._mode == "normal":
            self.start_committer()

    # ---- the write path ----------------------------------------------------------------------------------

    def append(self, data: bytes | bytearray | memoryview) -> int:
        """Log one entry and return its LSN; but in normal mode, it is durable then.

        Raises:
            EntryTooLargeError: it is larger than 1 MiB.
            NoSpaceError: the disk is full; the entry was not accepted. Append again once there is space.
            OSError: the next segment could not be made; the entry was not accepted.
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

        All of them are durable then, in every flush mode. After an error some are: ``appended`` of the exception is
        the range of their LSNs. They are the first of ``items``; append the others again, but after a PoisonedError
        only when the log was opened anew and its end looked at.

        Raises:
            TypeError: an item is not bytes-like.
            as `append`.
        """
        batch = list(items)
        with Batch(self._writer) as first_lsn:
            try:
                self._append_batch(batch)
            except BaseException as error:
                # Nobody else has framed since the batch began.
                appended = range(first_lsn, self._writer.durable_lsn + 1)
                error.appended = appended  # type: ignore[attr-defined]
                raise
        return range(first_lsn, first_lsn + len(batch))

    def _append_batch(self, batch: list[bytes | bytearray | memoryview]) -> None:
        if len(batch) >= PIPELINED_ITEMS:
            self.start_committer()
        done = 0
        while done < len(batch):
            try:
                done += self._writer.append_many(batch, done)
            except SegmentFull:
                self._rotate()

    def sync(self) -> None:
        """Return when everything appended so far is durable. Raises as `append`."""
        self._writer.check_usable()
        self._writer.commit()

    def _rotate_now(self) -> None:
        """Make room for the record that did not fit, unless another thread just has. Never interrupted: see `Apart`."""
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
        self._close_descriptor()
        self._descriptor = segment.descriptor

    def _close_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

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
        self._background.pause_compaction(flush_mode == "emergency")

    # ---- for the daemon: framing and commit apart ------------------------------------------------------------

    def frame_lines(self, lines: LineBuffer, hold: bool = False) -> tuple[int, int, int, int]:
        """Frame whole lines without waiting for their sync; see `LogWriter.frame_lines`."""
        while True:
            try:
                return self._writer.frame_lines(lines, hold)
            except SegmentFull:
                self._rotate()

    def receive(
        self, senders: Senders, may_frame: bool, may_commit: bool
    ) -> tuple[int, list[Sender], list[Sender]]:
        """Read from ``senders`` and frame their lines; see `Senders.receive`."""
        return senders.receive(self._writer, may_frame, may_commit)

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
        self._background.start_committer()

    # ---- flush -------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Move everything appended so far into a table, and return when that is published.

        Raises:
            OSError, NoSpaceError: the table could not be written; the entries are safe in the WAL.
            PoisonedError, ClosedError, ForkedError: as `append`.
        """
        self._writer.check_usable()
        self._writer.commit()
        self._background.flush_through(self._writer.durable_lsn)

    def _rotate_first(self, recovered: Recovered) -> None:
        """Bring the first segment of this run into use; on a full disk, one of which tables have every entry."""
        try:
            self._rotate_to(0, recovered.unproven)
        except NoSpaceError:
            self._background.recycle()
            self._rotate_to(0, recovered.unproven)

    def compact(self) -> None:
        """Join tables until nothing more is due, and return."""
        self._writer.check_usable()
        self._background.compact()

    # ---- the end -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Make everything durable, mark the log as closed and let go of it. Idempotent.

        Raises:
            PoisonedError: a sync failed; what was not acknowledged may be lost.
        """
        if self._process_id == os.getpid():
            self._end()
        else:
            self._close_descriptor()  # the parent's log goes on

    def _close_now(self) -> None:
        with self._owned:
            if self._closed:
                return
            self._closed = True
            self._writer.abandon_hold()
            with self._rotation_lock:
                self._writer.stop()

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
