"""What happens in a cycle, in the order in which it happened; written through to a journal outside of the disk."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from harness.crash_test.results import TimelineEvent

MAX_CONFIRMATIONS = 1_000


class Timeline:
    """The events of one cycle. The journal also has each confirmation: LSN and digest of the line."""

    def __init__(self, journal: Path, cycle: int) -> None:
        self._journal = journal.open("a")
        self._began = time.monotonic()
        self._journal.write(f"cycle {cycle}\n")
        self._events: list[TimelineEvent] = []
        self._confirmations: deque[TimelineEvent] = deque(maxlen=MAX_CONFIRMATIONS)

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def events(self, *, with_confirmations: bool) -> tuple[TimelineEvent, ...]:
        """Return what happened, with or without the latest confirmations."""
        more = self._confirmations if with_confirmations else ()
        return tuple(sorted((*self._events, *more), key=lambda event: event.at_ms))

    def note(self, kind: str, detail: str = "") -> None:
        """Something happened now."""
        at_ms = round(self.elapsed_s * 1000, 3)
        self._events.append(TimelineEvent(at_ms, kind, detail))
        self._journal.write(f"{at_ms:.3f} {kind} {detail}\n")

    def confirmed(self, lines: Sequence[tuple[int, bytes]]) -> None:
        """Lines were confirmed."""
        at_ms = round(self.elapsed_s * 1000, 3)
        first, last = lines[0][0], lines[-1][0]
        lsns = f"LSN {first}" if first == last else f"LSN {first} to {last}"
        self._confirmations.append(TimelineEvent(at_ms, "ack", lsns))
        # The digest stands at the end of each line.
        self._journal.writelines(f"ack {lsn} {line[-18:-2].decode()}\n" for lsn, line in lines)

    def close(self) -> None:
        self._journal.close()
