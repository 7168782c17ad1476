"""No power cut at all: the process is killed, and the kernel keeps what it had written."""

from __future__ import annotations

from pathlib import Path

from harness.crash_test.power.blind import BlindPower


class SigkillPower(BlindPower):
    """A plain directory."""

    name = "sigkill"
    loses_power = False

    def __init__(self, directory: Path) -> None:
        self.disk = directory / "disk"
        self.disk.mkdir()

    def cut(self) -> str:
        return "only the process was killed"
