"""Feeding: lines go to the target at a rate and answers come back, until the moment of the cut."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.crash_test.look import Look
from harness.crash_test.plan import BURST_LINES, CyclePlan
from harness.crash_test.processes import TargetProcess
from harness.crash_test.senders import FileSender, Sender, StreamSender
from harness.crash_test.settings import Settings
from harness.oracle import Entry

TICK_S = 0.01


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the feed tells while it goes on."""

    accepted: Callable[[list[tuple[int, bytes]]], None]
    confirmed: Callable[[list[tuple[int, bytes]]], None]
    first_confirmed: Callable[[], None]
    looked: Callable[[list[Entry]], None]
    open_look: Callable[[], Look | None]
    tick: Callable[[float], None]  # seconds since the first confirmation


class Feed:
    """One feed. `run` returns when the moment has come, the lines are used up, or the target has ended."""

    def __init__(
        self,
        plan: CyclePlan,
        settings: Settings,
        target: TargetProcess,
        senders: Sequence[Sender],
        hooks: Hooks,
    ) -> None:
        self.confirmed = 0
        self.sent = 0
        self.look: Look | None = None
        self.moment_came = False
        self.is_stalled = False
        """Whether the target answered nothing for too long."""
        self._plan = plan
        self._rate = settings.rate
        self._patience_s = settings.patience_seconds
        self._target = target
        self._senders = senders
        self._streams = [s for s in senders if isinstance(s, StreamSender)]
        self._files = [s for s in senders if isinstance(s, FileSender)]
        self._looks = 0
        self._hooks = hooks
        self._first_confirmed_at: float | None = None
        self._began = self._progress_at = time.monotonic()

    def run(self) -> None:
        """Feed until the cut is due.

        A target that answers nothing for long is not waited for any longer.
        """
        while not self._is_over():
            self._send_due()
            self._begin_look()
            self._wait()
            since_first = self._since_first()
            if since_first is not None:
                self._hooks.tick(since_first)

    def burst(self) -> None:
        """Send some more at once, so that lines are on their way when the cut falls."""
        for sender in self._senders:
            if not sender.is_congested:
                sender.send(BURST_LINES // len(self._senders))

    def hear(self) -> None:
        """Take the answers that the target has given."""
        for sender in self._streams:
            self._receive(sender)

    def end(self) -> None:
        """The target is dead: take the answers that it gave before."""
        self.hear()
        for sender in self._streams:
            sender.drop_unwritten()

    def end_look(self) -> None:
        """Take what a reader shows that was under way when the cut fell: that has to stay too."""
        if self.look is not None:
            self.look.wait()
            self._take_look(self.look)
            self.look = None

    def _since_first(self) -> float | None:
        if self._first_confirmed_at is None:
            return None
        return time.monotonic() - self._first_confirmed_at

    def _is_over(self) -> bool:
        if self._target.has_ended:
            return True
        moment, since_first = self._plan.moment, self._since_first()
        if moment.ack is not None:
            self.moment_came = self.confirmed >= moment.ack
        elif moment.after_s is not None:
            self.moment_came = since_first is not None and since_first >= moment.after_s
        if self.moment_came:
            return True
        if time.monotonic() - self._progress_at > self._patience_s:
            self.is_stalled = True
            return True
        answered = all(sender.unanswered == 0 for sender in self._senders)
        return self.sent >= self._plan.max_lines and answered

    def _send_due(self) -> None:
        due = self._plan.max_lines
        if self._rate:
            due = min(due, 1 + int((time.monotonic() - self._began) * self._rate))
        for sender in self._senders:
            share = -(-(due - self.sent) // len(self._senders))
            while share > 0 and not sender.is_congested:
                count = min(share, 50)
                sender.send(count)
                self.sent += count
                share -= count

    def _begin_look(self) -> None:
        """Look continually where only a reader shows what is confirmed; otherwise once, if that is planned."""
        if self.look is not None:
            return
        if self._files or (self._plan.look and self._looks == 0 and self.confirmed):
            self._looks += 1
            self.look = self._hooks.open_look()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._target.pidfd, select.POLLIN)
        for sender in self._streams:
            if sender.is_open:
                poll.register(sender.in_fd, select.POLLIN)
                if sender.wants_to_write and sender.out_fd != sender.in_fd:
                    poll.register(sender.out_fd, select.POLLOUT)
                elif sender.wants_to_write:
                    poll.modify(sender.in_fd, select.POLLIN | select.POLLOUT)
        if self.look is not None:
            poll.register(self.look.fd, select.POLLIN)
        ready = {fd for fd, _ in poll.poll(self._timeout_s() * 1000)}
        for sender in self._streams:
            if sender.out_fd in ready:
                sender.write()
            if sender.in_fd in ready:
                self._receive(sender)
        if self.look is not None and self.look.fd in ready and self.look.receive():
            look, self.look = self.look, None
            self._take_look(look)

    def _timeout_s(self) -> float:
        timeout_s = TICK_S if self._rate == 0 else min(TICK_S, 1 / self._rate)
        moment, since_first = self._plan.moment, self._since_first()
        if moment.after_s is not None and since_first is not None:
            timeout_s = min(timeout_s, max(0.0, moment.after_s - since_first))
        return timeout_s

    def _receive(self, sender: StreamSender) -> None:
        confirmed = sender.receive()
        self._hooks.accepted(sender.accepted)
        sender.accepted = []
        if confirmed:
            self._hooks.confirmed(confirmed)
            self._progress(len(confirmed))

    def _take_look(self, look: Look) -> None:
        self._hooks.looked(look.entries)
        for sender in self._files:
            before = sender.unanswered
            if sender.show(look.entries) < before:
                self._progress(before - sender.unanswered)

    def _progress(self, count: int) -> None:
        self.confirmed += count
        self._progress_at = time.monotonic()
        if self._first_confirmed_at is None:
            self._first_confirmed_at = self._progress_at
            self._hooks.first_confirmed()
