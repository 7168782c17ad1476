"""The power of a lazyfs mount of our own, driven through its control socket."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.crash_test.errors import CrashTestError
from harness.crash_test.plan import Request
from harness.crash_test.power import Pending
from harness.crash_test.processes import Child

COMMAND = (sys.executable, "-m", "lazyfs")
ANSWER_DEADLINE_S = 60.0


class LazyfsPower:
    """One mount for a whole run; a power loss needs no new one."""

    name = "lazyfs"
    loses_power = True
    has_faults = True

    def __init__(self, directory: Path, socket_path: Path) -> None:
        """Mount below ``directory``.

        Raises:
            CrashTestError: it cannot be mounted; the message is that of lazyfs.
        """
        self.disk = directory / "disk"
        self.root = directory / "synced"
        with suppress(FileExistsError):  # a stale mount, which is replaced
            self.disk.mkdir()
        self.root.mkdir()
        self._socket: socket.socket | None = None
        self._child: Child | None = None
        try:
            said = self._mount(directory, socket_path)
            if not said.startswith(b"mounted"):
                reason = (directory / "lazyfs.log").read_text(errors="replace").strip()
                raise CrashTestError(f"lazyfs cannot be mounted: {reason or said.decode()}")
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(ANSWER_DEADLINE_S)
            self._socket.connect(str(socket_path))
            self._answers = self._socket.makefile("rb")
        except BaseException:
            self.close()
            raise

    @property
    def children(self) -> tuple[Child, ...]:
        return () if self._child is None else (self._child,)

    def _mount(self, directory: Path, socket_path: Path) -> bytes:
        """Start lazyfs; return the first line it says. Its errors go to lazyfs.log."""
        # SIGTERM unmounts it: also if the harness is killed, no mount is left.
        with (directory / "lazyfs.log").open("wb") as errors:
            self._child = Child(
                [*COMMAND, str(self.disk), "--root", str(self.root), "--foreground", "--replace",
                 "--socket", str(socket_path)],
                stdout=subprocess.PIPE,
                stderr=errors,
                death_signal=signal.SIGTERM,
            )  # fmt: skip
        assert self._child.process.stdout is not None
        line: bytes = self._child.process.stdout.readline()
        if not line:
            self._child.wait()
        return line

    def _unmount(self) -> None:
        if self._child is not None:
            self._child.send_signal(signal.SIGTERM)
            with suppress(CrashTestError):
                self._child.wait()
            self._child.close()

    def at_rest(self, store: Path) -> Path:
        return self.root / store.relative_to(self.disk)

    def begin_cycle(self, profile: str, seed: int) -> None:
        self.command("profile", name=profile, seed=seed)

    def pending(self) -> Pending | None:
        report = self.command("report")
        return Pending(
            report["unsynced_operations"] + len(report["names"]),
            report["unsynced_bytes"],
            tuple(file["path"] for file in report["files"]),
            tuple(
                path for name in report["names"] for path in (name["path"], name.get("to")) if path
            ),
        )

    def cut(self) -> str:
        lost = self.command("power-loss")
        return (
            f"seed {lost['seed']}: {lost['data_ops_lost']} of {lost['data_ops_pending']} operations on content and "
            f"{lost['name_ops_lost']} of {lost['name_ops_pending']} on names are gone"
        )

    def kill_at(self, request: Request, store: Path, *, pid: int, power: bool) -> None:
        self.command(
            "kill",
            op=request.op,
            path=f"{store.relative_to(self.disk)}/{request.path}",
            nth=request.nth,
            when=request.when,
            pid=pid,
            power_loss=power,
        )

    def fell(self) -> bool:
        return all(rule["kind"] != "kill" for rule in self.command("rules")["rules"])

    def clear(self) -> None:
        self.command("clear")

    def command(self, command: str, /, **arguments: Any) -> dict[str, Any]:
        """Send a command and return its answer.

        Raises:
            CrashTestError: lazyfs is gone, or refuses it.
        """
        assert self._socket is not None
        try:
            self._socket.sendall(json.dumps({"cmd": command, **arguments}).encode() + b"\n")
            line = self._answers.readline()
        except OSError as error:
            raise CrashTestError(f"lazyfs does not answer {command}: {error}") from None
        if not line:
            raise CrashTestError(f"lazyfs ended at {command}; its messages are in lazyfs.log")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise CrashTestError(f"lazyfs refuses {command}: {answer['error']}")
        return answer

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._unmount()
