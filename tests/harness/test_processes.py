"""Children of the crash test."""

from __future__ import annotations

import select

from harness.crash_test.processes import Child

DEADLINE_S = 20.0


def test_a_child_that_has_ended_by_itself_can_still_be_stopped_and_killed() -> None:
    child = Child(["true"])
    try:
        assert select.select([child.pidfd], [], [], DEADLINE_S)[0]
        child.stop()
        assert child.kill() == 0
    finally:
        child.close()
