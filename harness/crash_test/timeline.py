"""What happens in a cycle, in the order in which it happened; written through to a journal outside of the disk."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from harness.crash_test.results import TimelineEvent


class Timeline:
    """The events of one cycle. The journal also has each confirmation: LSN and digest of the line."""

    def __init__(self, journal: Path, cycle: int) -> None:
        self._journal = journal.open("a")
        self._began = time.monotonic()
        self._journal.write(f"cycle {cycle}\n")
        self.events: list[TimelineEvent] = []

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._began

    def note(self, kind: str, detail: str = "") -> None:
        """Something happened now."""
        at_ms = round(self.elapsed_s * 1000, 3)
        self.events.append(TimelineEvent(at_ms, kind, detail))
        self._journal.write(f"{at_ms:.3f} {kind} {detail}\n")

    def confirmed(self, lines: Iterable[tuple[int, bytes]]) -> None:
        """Lines were confirmed."""
        # The digest stands at the end of each line.
        self._journal.writelines(f"ack {lsn} {line[-18:-2].decode()}\n" for lsn, line in lines)

    def close(self) -> None:
        self._journal.close()
