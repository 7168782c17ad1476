"""What disks have in common whose requests cannot be seen: no cut falls at one of them, and none fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.crash_test.plan import Request
from harness.crash_test.power import Pending
from harness.crash_test.processes import Child


class BlindPower:
    """A disk that takes no commands but a cut."""

    has_faults = False
    children: tuple[Child, ...] = ()

    def at_rest(self, store: Path) -> Path:
        return store

    def begin_cycle(self, profile: str, seed: int) -> None:
        pass  # what it loses is its own affair

    def pending(self) -> Pending | None:
        return None

    def kill_at(self, request: Request, store: Path, *, pid: int, power: bool) -> None:
        raise NotImplementedError("requests to this file system cannot be seen")

    def fell(self) -> bool:
        return False

    def clear(self) -> None:
        pass

    def command(self, command: str, /, **arguments: Any) -> dict[str, Any]:
        raise NotImplementedError("this file system takes no commands")

    def close(self) -> None:
        pass
