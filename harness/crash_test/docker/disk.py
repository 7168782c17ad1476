"""The container with the mount, whose power is cut; it lives as long as the run."""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Any

from harness.crash_test.docker.engine import Engine
from harness.crash_test.errors import CrashTestError
from harness.crash_test.power.lazyfs import LazyfsPower

MOUNT_DEADLINE_S = 60.0

# The first process of the container. It ends when nobody holds the lifeline any more, and everything with it.
_SCRIPT = """
lazyfs "$0" --root "$1" --foreground --replace --socket "$2" >"$3" 2>"$4" &
cat "$5" >/dev/null
kill $!
wait $!
"""


class DockerPower(LazyfsPower):
    """A lazyfs mount in a container. Only that container sees it; from here it is reached through /proc."""

    container: Any = None

    def __init__(self, engine: Engine, directory: Path, sockets: Path) -> None:
        """Start the container and mount.

        Args:
            directory: has the synced content, and nothing that is not.
            sockets: a directory with a short name, shared with the container.

        Raises:
            CrashTestError: the engine refuses it, or lazyfs cannot be mounted.
        """
        if not Path("/dev/fuse").exists():
            raise CrashTestError(
                "/dev/fuse is missing: load the kernel module fuse (modprobe fuse)"
            )
        self._engine = engine
        self._sockets = sockets
        self._lifeline = -1
        super().__init__(directory, sockets / "lazyfs")

    def _mount(self, directory: Path, socket_path: Path) -> bytes:
        ready, lifeline = self._sockets / "mounted", self._sockets / "lifeline"
        for path in (ready, lifeline):
            os.mkfifo(path)
        self._lifeline = os.open(lifeline, os.O_RDWR)
        paths = (self.disk, self.root, socket_path, ready, directory / "lazyfs.log", lifeline)
        self.container = self._engine.start(
            ["sh", "-c", _SCRIPT, *map(str, paths)],
            binds=[directory, self._sockets],
            devices=["/dev/fuse"],
        )
        line = self._first_line(ready)
        # The mount is in the container's namespace only.
        self.disk = Path(f"/proc/{self._pid()}/root{self.disk}")
        return line

    def _pid(self) -> int:
        pid = int(self.container.attrs["State"]["Pid"])
        if pid == 0:
            raise CrashTestError(f"the container ended at once: {self._logs()}")
        if not Path(f"/proc/{pid}/root").exists():
            raise CrashTestError(
                "the containers of this Docker engine cannot be seen from here: run as root, on its own machine"
            )
        return pid

    def _first_line(self, ready: Path) -> bytes:
        """Return what lazyfs says first; empty if it has ended."""
        pidfd = os.pidfd_open(self._pid())
        fifo = os.open(ready, os.O_RDWR | os.O_NONBLOCK)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.register(fifo, select.POLLIN)
            events = {fd for fd, _ in poll.poll(MOUNT_DEADLINE_S * 1000)}
            return os.read(fifo, 4096) if fifo in events else b""
        finally:
            os.close(fifo)
            os.close(pidfd)

    def _logs(self) -> str:
        said: bytes = self.container.logs()
        return said.decode(errors="replace").strip()[-500:]

    def _unmount(self) -> None:
        if self.container is not None:
            self._engine.remove(self.container)
            self.container = None
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
