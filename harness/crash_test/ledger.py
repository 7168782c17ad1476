"""Everything that is known about one store: what was sent to it, what it confirmed, and what it was seen to hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from harness.crash_test.senders import Sender
from harness.oracle import Entry, Finding, Verdict


@dataclass
class Ledger:
    """Grows from cycle to cycle, as long as the store lives.

    Attributes:
        sent: lines by source. Of a sender of an earlier cycle only what was recovered is left: nothing else of it may
            ever appear.
        acked, accepted, seen, shown, rotten: as in `harness.oracle.Observation`.
        contradictions: what was confirmed in two ways; no reader is needed to see that it is wrong.
    """

    sent: dict[str, list[bytes]] = field(default_factory=dict)
    acked: dict[int, bytes] = field(default_factory=dict)
    accepted: dict[int, bytes] = field(default_factory=dict)
    seen: dict[int, Entry] = field(default_factory=dict)
    shown: dict[int, Entry] = field(default_factory=dict)
    rotten: dict[int, bytes] = field(default_factory=dict)
    contradictions: list[Finding] = field(default_factory=list)

    @property
    def highest_lsn(self) -> int:
        """The highest LSN that anyone was told about."""
        return max((*self.acked, *self.seen, *self.shown), default=0)

    def add_sender(self, sender: Sender) -> None:
        """Lines of ``sender`` belong to the store from now on."""
        self.sent[sender.source] = sender.sent

    def accept(self, accepted: Iterable[tuple[int, bytes]]) -> None:
        """LSNs were given to lines that may not be durable yet."""
        for lsn, line in accepted:
            if self.accepted.setdefault(lsn, line) != line:
                reason = "accepted for two different lines"
                self.contradictions.append(Finding(Verdict.CORRUPT, lsn, reason))

    def confirm(self, confirmed: Iterable[tuple[int, bytes]]) -> None:
        """LSNs were confirmed, each for a line."""
        for lsn, line in confirmed:
            if self.acked.setdefault(lsn, line) != line:
                self.contradictions.append(
                    Finding(Verdict.CORRUPT, lsn, "confirmed for two different lines")
                )

    def show(self, entries: Iterable[Entry]) -> None:
        """A reader has shown entries that have to stay."""
        for entry in entries:
            if self.shown.setdefault(entry.lsn, entry) != entry:
                self.contradictions.append(
                    Finding(Verdict.CORRUPT, entry.lsn, "shown in two different ways")
                )

    def settle(self, recovered: Iterable[Entry], living: Iterable[Sender]) -> None:
        """A recovery is judged: what it showed stays, and of dead senders nothing else may come.

        Args:
            living: senders that go on.
        """
        self.seen = {entry.lsn: entry for entry in recovered}
        self.shown.clear()
        self.accepted.clear()  # what was lost of it gave its LSNs back
        there = {entry.data for entry in self.seen.values()}
        there |= set(self.rotten.values())
        going_on = {sender.source for sender in living}
        for source in list(self.sent):
            if source not in going_on:
                self.sent[source] = [line for line in self.sent[source] if line in there]
                if not self.sent[source]:
                    del self.sent[source]
