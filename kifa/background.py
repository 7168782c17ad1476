"""The threads behind the write path.

memtable full -> flush thread: memtable -> table -> manifest -> recycle segments
                                              | enough tables of one size
                                              v
                 compaction thread: tables -> table -> manifest -> delete inputs

group full    -> committer: makes it durable while the next one is framed; only where there is use for it
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable

from kifa._memtable import Memtable
from kifa._wal import LogWriter
from kifa.errors import KifaError, NoSpaceError
from kifa.interrupts import Apart, Bell
from kifa.priority import step_back
from kifa.segment_pool import SegmentPool
from kifa.table_set import TableSet

log = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
# With so many, one that is to be used next comes from a flush; with fewer, a new one is prepared.
FLUSHED_LIVE_SEGMENTS = 3
# How soon who waits for a flush is told that it failed, or interrupted.
NOTICE_SECONDS = 0.2
# Joined also while the log is being closed: a few take milliseconds.
SMALL_TABLE_SIZE_BYTES = 1 << 20


class Background:
    """Flushes, compacts, prepares segments and commits for an open log."""

    def __init__(
        self, writer: LogWriter, pool: SegmentPool, tables: TableSet, compaction_enabled: bool
    ) -> None:
        """Nothing runs before ``start``, and what is due is done when ``stop`` returns; that is idempotent."""
        # Starting and joining threads takes locks of theirs, which an interrupt would leave taken.
        self.start = Apart(self._start)
        self.stop = Apart(self._stop)
        self._start_committer = Apart(self._start_committer_now)
        self._writer = writer
        self._pool = pool
        self._tables = tables
        self._compaction_enabled = compaction_enabled
        self._compaction_paused = False
        self._closing = threading.Event()
        self._has_committer = False
        self._compaction_wanted = Bell()
        self._flush_rounds = 0
        self._flushed_for_sequence = 0  # the segment for whose successor a flush was asked
        self._failure: BaseException | None = None
        self._threads: list[threading.Thread] = []
        self._start_lock = threading.Lock()

    # ---- threads -----------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._start_thread("kifa-flush", self._run_flushes)
        self._start_thread("kifa-compact", self._run_compactions)
        self._compaction_wanted.ring()

    def start_committer(self) -> None:
        """Start the thread that makes groups durable while the next one is framed. Idempotent."""
        if not self._has_committer:
            self._start_committer()

    def _start_committer_now(self) -> None:
        with self._start_lock:
            if not self._has_committer:
                self._start_thread("kifa-commit", self._writer.run_committer)
                self._has_committer = True

    def _start_thread(self, name: str, body: Callable[[], None]) -> None:
        thread = threading.Thread(target=body, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _stop(self) -> None:
        self._closing.set()
        self._tables.hurry()
        self._writer.stop_committer()
        self._writer.wake_background()
        self._compaction_wanted.ring()
        for thread in self._threads:
            thread.join()

    # ---- flush -------------------------------------------------------------------------------------------

    def flush_through(self, last_lsn: int) -> None:
        """Return when a published table has every durable LSN up to ``last_lsn``.

        Raises:
            OSError, NoSpaceError: the table could not be written.
            PoisonedError, ClosedError: there will be none.
        """
        rounds = self._flush_rounds
        while self._writer.oldest_unflushed_lsn <= last_lsn:
            self._writer.request_freeze()
            self._writer.wait_for_flush(last_lsn, NOTICE_SECONDS)
            failure = self._failure
            if failure is not None and self._flush_rounds > rounds:
                raise failure
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
            self._flush_rounds += 1
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
            self.recycle()
            self._compaction_wanted.ring()

    def recycle(self) -> None:
        """Recycle the segments that tables have superseded, but those that may have what a damaged table lost."""
        self._pool.recycle_through(self._tables.checkpoint_lsn, self._tables.unmended_ranges)

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
            self._pool.prepare_spare(abandon=self._closing.is_set)
        except NoSpaceError as error:
            log.info("%s", error)

    # ---- compaction --------------------------------------------------------------------------------------

    def compact(self) -> None:
        """Join tables until nothing more is due, and return."""
        while self._tables.join_due():
            pass
        self._have_tables_mended()

    def pause_compaction(self, paused: bool) -> None:
        """Join nothing any more, or go on."""
        self._compaction_paused = paused
        if not paused:
            self._compaction_wanted.ring()

    def _have_tables_mended(self) -> None:
        """Wake the flush thread if a table was found damaged."""
        if self._tables.mending_due_seconds == 0:
            self._writer.wake_background()

    def _run_compactions(self) -> None:
        step_back()
        while True:
            self._compaction_wanted.wait()
            is_last = self._closing.is_set()
            try:
                while self._compaction_enabled and not self._compaction_paused:
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
