"""Joins the sources to the log: frames what they read, commits it, and tells each sender.

    source reads a chunk -> frame -> (round ends) commit -> durable -> answers

Whatever was framed while a group synced is the next group. A little is committed by this thread itself, which is the
shortest way to an acknowledgement; more goes to the log's committer, so that reading and framing go on meanwhile.

Many senders with one line in flight each share a sync: one call (`kifa._senders`) reads and frames for all of them,
and gives those a moment who were just answered; where nothing else is to be done, it commits and answers, too
(docs/decisions/0010-many-senders.md). Answers are given from the durable LSN as it is after the commit. After a sync
that failed nobody is answered: the loop's next commit raises, or the committer's event does.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable

from kifa._answers import AnswerQueue, Answers
from kifa._lines import LineBuffer
from kifa._senders import Senders
from kifa._typing import Any, Protocol
from kifa._wal import DRAINED, OVERSIZE
from kifa.engine import Log
from kifa.errors import EntryTooLargeError, KifaError, NoSpaceError
from kifa.event_loop import EDGE, READABLE, EventLoop, Timer

log = logging.getLogger(__name__)

INLINE_COMMIT_SIZE_BYTES = 64 * 1024
NORMAL_PENDING_LIMIT = 50
NORMAL_DELAY_SECONDS = 0.1
SPACE_RETRY_SECONDS = 0.25


class Source(Protocol):
    """What reads entries from somewhere."""

    def stop(self) -> None:
        """Read no more; store what was read."""

    def close(self) -> None:
        """Let go of everything; the answers were sent."""


class Ingest:
    """The daemon's one thread of control."""

    def __init__(self, store: Log, loop: EventLoop) -> None:
        self.store = store
        self.loop = loop
        self.refused = 0
        """Lines that a source refused, or lost; they end in the summary and the exit code."""
        self.lost = 0
        self.failure: KifaError | None = None
        # What went wrong without costing a line; the daemon ends with it.
        self._framed_bytes = 0
        self._requested_lsn = store.last_lsn
        self.answers = AnswerQueue()
        """What all senders are to be told."""
        self.plain = Senders(self.answers)
        """Those about whom nothing is to be decided."""
        self._blocked: dict[object, Callable[[], None]] = {}
        self._full_until = 0.0
        self._is_full = False
        self._commit_timer: Timer | None = None
        self._durable_event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # Edge-triggered: it is never read, each addition is an event of its own.
        loop.add(self._durable_event, READABLE | EDGE, lambda _events: store.check_usable())
        loop.add(self.plain.fileno(), READABLE, self._receive)
        store.notify_on(self._durable_event)
        store.start_committer()

    # ---- from the sources ----------------------------------------------------------------------------------

    def _receive(self, _events: int) -> None:
        """Serve the plain senders; where nothing else is to be done, commit and answer at once."""
        may_commit = (
            self.loop.events_left == 0
            and self.store.flush_mode != "normal"
            and self._commits_itself(self.store.durable_lsn)
        )
        size, to_store, to_read = self.store.receive(
            self.plain, not self._is_known_full(), may_commit
        )
        if size:
            self._note_space()
            self._framed_bytes += size
        for sender in to_store:
            sender.store()
        for sender in to_read:
            sender.read()

    def store_lines(
        self,
        lines: LineBuffer,
        answers: Answers | None = None,
        checkpoint: tuple[str, Callable[[], Any]] | None = None,
        name: str = "",
    ) -> bool:
        """Frame all whole lines that ``lines`` holds.

        Args:
            answers: told of each line; without, nobody is.
            checkpoint: key and current position of the source, stored in the same group as the lines.

        Returns:
            Whether all were stored or refused. If not, the disk is full: wait with `wait_for_space`.
        """
        before = lines.pending_bytes
        try:
            while True:
                if self._is_known_full():
                    return self._refuse_lines(lines, answers)
                try:
                    first, count, reason, size = self.store.frame_lines(
                        lines, checkpoint is not None
                    )
                    self._note_space()
                    if count and answers is not None:
                        answers.stored(first, count)
                    if reason == OVERSIZE:
                        self.refuse_line(size, answers, name)
                    if checkpoint is not None and (count or reason == OVERSIZE):
                        # Only where no line is in its group can it find no space; the next one says the same.
                        self.store.frame_source_checkpoint(checkpoint[0], checkpoint[1]())
                except NoSpaceError as error:
                    self._note_full(error)
                    continue
                if reason == DRAINED:
                    return True
        finally:
            self._framed_bytes += before - lines.pending_bytes

    def store_entry(self, data: bytes, answers: Answers | None = None, name: str = "") -> bool:
        """Frame one entry; as `store_lines`."""
        if not self._is_known_full():
            try:
                lsn = self.store.frame_entry(data)
            except NoSpaceError as error:
                self._note_full(error)
            except EntryTooLargeError:
                self._refuse(f"entry of {len(data)} bytes is too long", answers, name)
                return True
            else:
                self._note_space()
                self._framed_bytes += len(data)
                if answers is not None:
                    answers.stored(lsn, 1)
                return True
        if answers is None:
            return False
        self._refuse("no space", answers, "")
        return True

    def refuse(self, reason: str, answers: Answers | None, name: str) -> None:
        """A line cannot be stored, ever."""
        self._refuse(reason, answers, name)

    def refuse_line(self, size_bytes: int, answers: Answers | None, name: str) -> None:
        """A line of this size was thrown away."""
        self._refuse(f"line of {size_bytes} bytes is too long", answers, name)

    def wait_for_space(self, source: object, retry: Callable[[], None]) -> None:
        """Call ``retry`` when there may be space again; ``source`` reads nothing until then."""
        self._blocked[source] = retry
        if len(self._blocked) == 1:
            self.loop.call_later(SPACE_RETRY_SECONDS, self._retry_blocked)

    def _retry_blocked(self) -> None:
        blocked, self._blocked = self._blocked, {}
        self._full_until = 0.0
        for retry in blocked.values():
            retry()

    def _refuse(self, reason: str, answers: Answers | None, name: str) -> None:
        self.refused += 1
        if name:
            log.warning("%s: refused: %s", name, reason)
        if answers is not None:
            answers.refused(reason)

    def _refuse_lines(self, lines: LineBuffer, answers: Answers | None) -> bool:
        if answers is None:
            return False
        for _ in range(lines.refuse()):
            self._refuse("no space", answers, "")
        return True

    # ---- disk full -----------------------------------------------------------------------------------------

    def _is_known_full(self) -> bool:
        return self._full_until > 0.0 and time.monotonic() < self._full_until

    def _note_full(self, error: NoSpaceError) -> None:
        # So that a flood of lines does not try to create a segment for each.
        self._full_until = time.monotonic() + SPACE_RETRY_SECONDS
        if not self._is_full:
            self._is_full = True
            log.error("%s", error)

    def _note_space(self) -> None:
        self._full_until = 0.0
        if self._is_full:
            self._is_full = False
            log.warning("there is space again")

    # ---- rounds --------------------------------------------------------------------------------------------

    def run_round(self) -> None:
        """Wait for events, commit what they brought, send the answers that are due.

        Raises:
            PoisonedError: a sync failed; nothing more is answered.
        """
        self.loop.run_once()
        self._commit()
        self._answer()

    def drain(self) -> None:
        """Make everything framed durable and answer it."""
        self.store.sync()
        self._answer()

    def _commit(self) -> None:
        last, durable = self.store.last_lsn, self.store.durable_lsn
        if last in (durable, self._requested_lsn):
            self._framed_bytes = 0
            return
        if self.store.flush_mode == "normal" and last - durable < NORMAL_PENDING_LIMIT:
            if self._commit_timer is None:
                self._commit_timer = self.loop.call_later(NORMAL_DELAY_SECONDS, self._commit_old)
            return
        if self._commits_itself(durable):
            self.store.sync()
        else:
            self.store.request_commit()
        self._requested_lsn = last
        self._framed_bytes = 0

    def _commits_itself(self, durable_lsn: int) -> bool:
        # The committer is not busy with more.
        return self._framed_bytes < INLINE_COMMIT_SIZE_BYTES and self._requested_lsn <= durable_lsn

    def _commit_old(self) -> None:
        self._commit_timer = None
        self.store.request_commit()
        self._requested_lsn = self.store.last_lsn

    def _answer(self) -> None:
        durable = self.store.durable_lsn
        told = 0
        for answers in self.answers.answer(durable):
            if data := answers.take(durable):
                answers.send(data)
                told += 1
        if told == 1 or self.answers.expects_senders:  # more keep each other awake
            self.loop.linger()

    def close(self) -> None:
        """Stop listening to the log."""
        self.store.notify_on(-1)
        self.loop.remove(self.plain.fileno())
        self.loop.remove(self._durable_event)
        os.close(self._durable_event)
