"""What goes wrong beside the power: each kind draws its place from the cycle's seed, and knows what it excuses."""

from __future__ import annotations

import random
from pathlib import Path

from harness.crash_test.clock import set_clock
from harness.crash_test.plan import CyclePlan
from harness.crash_test.power import Power
from harness.crash_test.stand import Stand
from harness.crash_test.timeline import Timeline
from harness.oracle import Finding

DAY_S = 86_400
CLOCK_JUMPS_S = (-30 * DAY_S, -3_600, -5, 5, 3_600, 365 * DAY_S)


class Fault:
    """No fault at all; the others override what they need."""

    may_end = False
    """Whether the target may end by itself because of it."""
    clock_off_ms = (0, 0)
    """How far the clock of the target may be off, at least and at most."""

    def __init__(self, stand: Stand, plan: CyclePlan, timeline: Timeline) -> None:
        self.stand = stand
        self.power: Power = stand.power
        self.plan = plan
        self.timeline = timeline
        self.draw = random.Random(f"{plan.seed} faults")
        self.description = ""

    @property
    def spoils_looks(self) -> bool:
        """Whether a sync may have failed: what a reader shows since then is "maybe"."""
        return False

    def begin(self) -> None:
        """The first confirmation of the cycle came: from now on things go wrong."""

    def tick(self, since_first_s: float) -> None:
        """Time has passed since then."""

    def end(self) -> None:
        """The target is dead, and has not begun to recover."""

    def at_rest(self, store: Path) -> list[Finding]:
        """The power was cut, and nothing runs; return what is wrong.

        Args:
            store: where its bytes are.
        """
        return []

    def _begun(self, description: str) -> None:
        self.description = description
        self.timeline.note("fault", description)


class FailingRequest(Fault):
    """A request to the file system fails with EIO. The target may give up; what a failed sync was for is "maybe"."""

    may_end = True
    _REQUESTS = (
        ("fdatasync", "*", 40),
        ("fsync", "*", 4),
        ("write", "*", 60),
        ("fsyncdir", "*", 4),
        ("rename", "*", 3),
        ("create", "*", 3),
        ("unlink", "*", 2),
    )

    @property
    def spoils_looks(self) -> bool:
        return bool(self.description) and all(
            rule["kind"] != "fail" for rule in self.power.command("rules")["rules"]
        )

    def begin(self) -> None:
        op, path, highest = self.draw.choice(self._REQUESTS)
        nth = self.draw.randint(1, highest)
        aftermath = self.draw.choice(("kept", "dropped", "reverted"))
        path = f"{self.stand.store.path.name}/{path}"
        self.power.command("fail", op=op, path=path, nth=nth, errno="EIO", aftermath=aftermath)
        self._begun(f"EIO at {op} {nth} ({aftermath})")


class FullDisk(Fault):
    """The disk is full for a while. Lines are refused, or wait; nothing that was confirmed suffers."""

    may_end = True
    _is_lifted = False

    def begin(self) -> None:
        used_bytes = self.power.command("status")["used_bytes"]
        room_bytes = self.draw.choice((0, 4_096, 100_000, 1_100_000))
        self._lift_after_s = self.draw.uniform(0.02, 0.4)
        self.power.command("quota", bytes=used_bytes + room_bytes)
        self._begun(f"{room_bytes} bytes left for {self._lift_after_s:.3f} s")

    def tick(self, since_first_s: float) -> None:
        if not self._is_lifted and since_first_s > self._lift_after_s:
            self._is_lifted = True
            self.power.command("quota", bytes=None)
            self.timeline.note("fault", "there is space again")

    def end(self) -> None:
        # A store of which nothing may be written cannot recover; that is no broken promise.
        self.power.command("quota", bytes=None)


class SlowDisk(Fault):
    """Requests take long, so that more of them are under way when the cut falls."""

    def begin(self) -> None:
        op = self.draw.choice(("write", "fdatasync", "fsync", "*"))
        delay_ms = self.draw.choice((1, 3, 10))
        self.power.command("slow", op=op, delay_ms=delay_ms, path=f"{self.stand.store.path.name}/*")
        self._begun(f"each {op} takes {delay_ms} ms longer")


class JumpingClock(Fault):
    """The wall clock of the target jumps, there and perhaps back."""

    clock_off_ms = (min(CLOCK_JUMPS_S) * 1000, max(CLOCK_JUMPS_S) * 1000)

    def begin(self) -> None:
        self._jump(self.draw.choice(CLOCK_JUMPS_S))
        self._back_after_s = self.draw.uniform(0.02, 0.6)

    def tick(self, since_first_s: float) -> None:
        if since_first_s > self._back_after_s:
            self._back_after_s = float("inf")
            self._jump(0)

    def _jump(self, offset_s: int) -> None:
        set_clock(self.stand.work, offset_s)
        self._begun(f"the clock is {offset_s:+d} s off")
