"""After the cut: read what is left in two ways, let the store recover, read again, and have it all judged."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.crash_test.plan import CyclePlan
from harness.crash_test.processes import NotReadyError
from harness.crash_test.senders import FileSender, StreamSender, readable
from harness.crash_test.stand import Stand, now_ms
from harness.crash_test.targets import UnreadableError
from harness.crash_test.timeline import Timeline
from harness.oracle import Entry, Finding, Observation, Verdict

# The wall clock is read by two processes, and may be adjusted a little while they do.
CLOCK_SLACK_MS = 1_000


@dataclass(frozen=True, slots=True)
class Examination:
    """What is left after a cut, and what else was noticed."""

    observation: Observation
    findings: tuple[Finding, ...]
    recovery_s: float


class Examiner:
    """Examines the store of a stand after a cut; afterwards the target runs again, ready for the next cycle."""

    def __init__(self, stand: Stand, following: CyclePlan, timeline: Timeline) -> None:
        self._stand = stand
        self._following = following
        self._timeline = timeline
        self._findings: list[Finding] = []

    def examine(
        self, source: Path, *, acks_in_cycle: int, at_stake: int, clock_off_ms: tuple[int, int]
    ) -> Examination:
        """Read the store at ``source`` at rest, then let the target recover its store.

        Args:
            acks_in_cycle, at_stake: as in `Observation`.
            clock_off_ms: how far the clock of the target may have been off, at least and at most.
        """
        stand = self._stand
        examined_at_ms = now_ms()
        copy = stand.snapshot
        shutil.rmtree(copy, ignore_errors=True)
        if source.exists():
            shutil.copytree(source, copy)
        began = time.monotonic()
        stand.begin_start(self._following)
        recovered, second = self._read_at_rest(copy)
        acked = dict(stand.store.ledger.acked)
        accepted = dict(stand.store.ledger.accepted)
        again: list[Entry] | None = None
        next_lsn: int | None = None
        is_ready = self._await_ready()
        recovery_s = time.monotonic() - began
        if is_ready:
            self._timeline.note("recovered", f"{len(recovered or ())} entries at rest")
            stand.open_senders(self._following)
            next_lsn = self._probe()
            again = self._read_again()
            if next_lsn is None and again is not None:
                next_lsn = self._lsn_of_probe(again)
        ledger = stand.store.ledger
        earliest = stand.store.examined_at_ms - CLOCK_SLACK_MS + clock_off_ms[0]
        latest = now_ms() + CLOCK_SLACK_MS + clock_off_ms[1]
        observation = Observation(
            sent={source: list(lines) for source, lines in ledger.sent.items()},
            acked=acked,
            recovered=recovered,
            recovered_again=again,
            second_reader=second,
            next_lsn=next_lsn,
            acks_in_cycle=acks_in_cycle,
            at_stake=at_stake,
            seen=ledger.seen,
            shown=ledger.shown,
            accepted=accepted,
            complete=() if stand.store.file is None else (stand.store.file.source,),
            rotten=dict(ledger.rotten),
            clock=(earliest, latest),
        )
        stand.store.examined_at_ms = examined_at_ms
        return Examination(observation, tuple(self._findings), recovery_s)

    def _await_ready(self) -> bool:
        stand = self._stand
        try:
            if stand.await_ready():
                return True
            code = stand.end_child()
            self._unavailable(f"the target ends with {code} after the cut: {stand.last_words()}")
        except NotReadyError as error:
            stand.end_child()
            self._unavailable(f"after the cut: {error}")
        return False

    def _unavailable(self, reason: str) -> None:
        self._findings.append(Finding(Verdict.UNAVAILABLE, None, reason))

    def _read_at_rest(self, copy: Path) -> tuple[list[Entry] | None, list[Entry] | None]:
        target = self._stand.target
        look = self._stand.look(copy) if copy.exists() else None
        second = self._read(lambda: target.read_again(copy), "second reader")
        if look is None:
            return self._read(lambda: target.read(copy), "reader"), second
        entries = look.wait()
        if look.exit_code not in target.reader_codes:
            self._unavailable(f"the reader ends with {look.exit_code}: {look.errors}")
            return None, second
        return entries, second

    def _read(self, read: Callable[[], list[Entry]], who: str) -> list[Entry] | None:
        try:
            return read()
        except UnreadableError as error:
            self._unavailable(f"{who}: {error}")
            return None

    def _probe(self) -> int | None:
        """Send a line; return the LSN that it was confirmed for."""
        sender = self._stand.senders[0]
        sender.send(1)
        if isinstance(sender, FileSender):
            return None  # there is no answer; a reader shows it
        assert isinstance(sender, StreamSender)
        assert self._stand.child is not None
        end = time.monotonic() + self._stand.settings.patience_seconds
        while time.monotonic() < end:
            ready = readable([sender.in_fd, self._stand.child.pidfd], end - time.monotonic())
            confirmed = sender.receive()
            if confirmed:
                self._stand.store.ledger.confirm(confirmed)
                self._timeline.confirmed(confirmed)
                return confirmed[0][0]
            if self._stand.child.pidfd in ready:
                break
        return None

    def _lsn_of_probe(self, entries: list[Entry]) -> int | None:
        sender = self._stand.senders[0]
        if not isinstance(sender, FileSender):
            return None
        probe = sender.sent[-1]
        return next((entry.lsn for entry in reversed(entries) if entry.data == probe), None)

    def _read_again(self) -> list[Entry] | None:
        """Read beside the running target, until each line of the followed file is there."""
        stand = self._stand
        look = stand.look(stand.store.path)
        if look is None:
            return self._read(lambda: stand.target.read(stand.store.path), "reader")
        entries = look.wait()
        if look.exit_code not in stand.target.reader_codes:
            self._unavailable(f"beside the target the reader ends with {look.errors}")
            return None
        file = stand.store.file
        end = time.monotonic() + stand.settings.patience_seconds
        while file is not None and file.show(entries) and time.monotonic() < end:
            more = stand.look(stand.store.path, entries[-1].lsn + 1 if entries else 1)
            assert more is not None
            entries += more.wait()
        return entries

    def close(self, observation: Observation) -> list[Finding]:
        """Let the target end in order, cut the power, and find what is not as it was before."""
        stand = self._stand
        if stand.child is None:
            return []
        stand.child.send_signal(signal.SIGTERM)
        code = stand.child.wait()
        stand.end_child()
        findings = []
        if code != stand.target.end_code:
            reason = f"the target ends with {code} after SIGTERM: {stand.last_words()}"
            findings.append(Finding(Verdict.UNAVAILABLE, None, reason))
        stand.power.cut()
        left = self._read(
            lambda: stand.target.read(stand.power.at_rest(stand.store.path)), "reader"
        )
        if left is not None and observation.recovered_again is not None:
            kept = {entry.lsn: entry for entry in left}
            for entry in observation.recovered_again:
                if kept.get(entry.lsn) != entry:
                    verdict = Verdict.CORRUPT if entry.lsn in kept else Verdict.LOST
                    reason = "missing, or another, after the target ended in order"
                    findings.append(Finding(verdict, entry.lsn, reason))
        self._timeline.note("closed", f"exit code {code}")
        return findings
