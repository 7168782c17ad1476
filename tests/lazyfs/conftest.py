"""Mounts for tests: each in a process of its own, and gone after the test whatever happened."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lazyfs import mount as mounting
from lazyfs.client import Client
from lazyfs.errors import MountError

READY_S = 20.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Mounted:
    """One mount: `path` is where programs look, `root` what is synced."""

    path: Path
    root: Path
    socket: Path
    process: subprocess.Popen[str]
    clients: list[Client] = field(default_factory=list)

    def command(self, name: str, /, **arguments: object) -> dict[str, object]:
        """Send a control command."""
        if not self.clients:
            self.clients.append(Client(self.path, self.socket))
        return self.clients[0].command(name, **arguments)

    def power_loss(self, seed: int | None = None) -> dict[str, object]:
        """Cut the power."""
        return self.command("power-loss", **({} if seed is None else {"seed": seed}))

    def unmount(self) -> None:
        """Unmount and wait for the process."""
        if mounting.mounted_at(self.path) is not None:
            mounting.unmount(self.path)
        self.process.wait(READY_S)

    def kill(self) -> None:
        """SIGKILL the process; the mount is stale afterwards."""
        self.process.kill()
        self.process.wait(READY_S)

    def clean_up(self) -> None:
        """Leave nothing behind."""
        for client in self.clients:
            client.close()
        if self.process.poll() is None:
            self.process.terminate()
        while mounting.mounted_at(self.path) is not None:
            with contextlib.suppress(MountError):  # the process may unmount at the same moment
                mounting.unmount(self.path)
        try:
            self.process.wait(READY_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(READY_S)
        if self.process.stdout is not None:
            self.process.stdout.close()


def start(path: Path, root: Path, *arguments: str) -> Mounted:
    """Mount in the foreground of a new process, and wait until it says that it is ready."""
    with contextlib.suppress(FileExistsError):
        path.mkdir()  # without a look at what is there: it may be a stale mount
    root.mkdir(exist_ok=True)
    socket = root.parent / f"{root.name}.sock"
    process = subprocess.Popen(
        [sys.executable, "-m", "lazyfs", str(path), "--root", str(root), "-f",
         "--socket", str(socket), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=_die_with_parent,
    )  # fmt: skip
    assert process.stdout is not None
    timer = threading.Timer(READY_S, process.kill)
    timer.start()
    line = process.stdout.readline()
    timer.cancel()
    mounted = Mounted(path, root, socket, process)
    if not line.startswith("mounted"):
        process.kill()
        process.wait(READY_S)
        said = line + process.stdout.read()
        mounted.clean_up()
        raise RuntimeError(said)
    return mounted


MountFactory = Callable[..., Mounted]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[MountFactory]:
    """Makes mounts: `mount("--profile", "random", name="a")`."""
    missing = mounting.missing_requirement()
    if missing is not None:
        pytest.skip(missing)
    with contextlib.ExitStack() as stack:

        def make(*arguments: str, name: str = "disk") -> Mounted:
            mounted = start(tmp_path / name, tmp_path / f"{name}.root", *arguments)
            stack.callback(mounted.clean_up)
            return mounted

        yield make
