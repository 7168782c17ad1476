"""No power cut at all: the process is killed, and the kernel keeps what it had written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.crash_test.plan import Request
from harness.crash_test.power import Pending


class SigkillPower:
    """A plain directory."""

    name = "sigkill"
    loses_power = False
    has_faults = False

    def __init__(self, directory: Path) -> None:
        self.disk = directory / "disk"
        self.disk.mkdir(exist_ok=True)

    def at_rest(self, store: Path) -> Path:
        return store

    def begin_cycle(self, profile: str, seed: int) -> None:
        pass

    def pending(self) -> Pending | None:
        return None

    def cut(self) -> str:
        return "only the process was killed"

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
