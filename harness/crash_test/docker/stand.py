"""The test stand whose target and generators run in a container, one for each life of the target."""

from __future__ import annotations

import os
import select
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.crash_test.docker.disk import DockerPower
from harness.crash_test.docker.engine import Engine
from harness.crash_test.plan import CyclePlan
from harness.crash_test.senders import StreamSender
from harness.crash_test.settings import Settings
from harness.crash_test.stand import Stand
from harness.crash_test.targets import Target

# In the namespace of mounts of the disk, whose first process is number 1 here.
_ENTER = ("nsenter", "--target", "1", "--mount", "--", "sh", "-c")
SIGNALLED = 128
_RELAY = ("python3", "-m", "harness.crash_test.docker.relay")


class Computer:
    """The container of one life of the target; for its kill and its end the engine is asked."""

    def __init__(
        self, engine: Engine, container: Any, command: Sequence[str], end_code: int
    ) -> None:
        self.command: Sequence[str] = list(command)
        self._engine = engine
        self._container = container
        self._end_code = end_code
        self._code: int | None = None
        host_pid = int(container.attrs["State"]["Pid"])
        self.pid = _pid_inside(host_pid)
        try:
            self.pidfd = os.pidfd_open(host_pid) if host_pid else os.open(os.devnull, os.O_RDONLY)
        except ProcessLookupError:
            self.pidfd = os.open(os.devnull, os.O_RDONLY)  # readable, as if it had just ended

    @property
    def has_ended(self) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def send_signal(self, number: signal.Signals) -> None:
        self._engine.kill(self._container, number.name)

    def stop(self) -> None:
        self.send_signal(signal.SIGSTOP)

    def wait(self) -> int:
        if self._code is None:
            code = self._engine.exit_code(self._container)
            # Also a program that exits with 128 + n by itself looks as if signal n had killed it.
            is_signal = code > SIGNALLED and code != self._end_code
            self._code = SIGNALLED - code if is_signal else code
        return self._code

    def kill(self) -> int:
        self._engine.kill(self._container)
        return self.wait()

    def close(self) -> None:
        if self.pidfd >= 0:
            self._engine.remove(self._container)
            os.close(self.pidfd)
            self.pidfd = -1


def _pid_inside(host_pid: int) -> int:
    """The number that a process has in the containers; 0 if it has ended."""
    try:
        status = Path(f"/proc/{host_pid}/status").read_text()
    except FileNotFoundError:
        return 0
    line = next(line for line in status.splitlines() if line.startswith("NSpid:"))
    return int(line.split()[-1])


class RelayedSender(StreamSender):
    """Tells the generator in the container how many lines to send; its answers come back through a FIFO."""

    def send(self, count: int) -> None:
        for _ in range(count):
            line = next(self._lines)
            self.sent.append(line)
            self._awaiting.append(line)
        self._buffer += b"%d\n" % count
        self.write()

    def drop_unwritten(self) -> None:
        """What the generator was told to send counts as sent."""
        self._buffer.clear()


class DockerStand(Stand):
    """A stand in containers. The directories of the host that they share have the same paths there."""

    held_ms = 1_000  # the engine takes longer to kill than the kernel does

    def __init__(
        self, engine: Engine, settings: Settings, power: DockerPower, target: Target, work: Path, sockets: Path
    ) -> None:  # fmt: skip
        super().__init__(settings, power, target, work, sockets)
        self._engine = engine
        self._disk = power
        self._fifos: dict[str, int] = {}

    def _start_target(
        self, command: Sequence[str], plan: CyclePlan, environment: Mapping[str, str]
    ) -> Computer:
        self._close_fifos()
        lines = [
            self._with_fifos([*_RELAY, str(plan.seed), source, "heavy" if plan.heavy else "light",
                              plan.source, *self._addresses(plan.source)], source) + " &"
            for source in self.stream_names(plan)
        ]  # fmt: skip
        lines.append("exec " + self._with_fifos(list(map(self._inside, command)), "target"))
        container = self._engine.start(
            [*_ENTER, f"exec 2>>{shlex.quote(str(self.log_path))}\n" + "\n".join(lines)],
            binds=[],
            environment=environment,
            beside=self._disk.container,
        )
        return Computer(self._engine, container, command, self.target.end_code)

    def _inside(self, word: str) -> str:
        """A word of a command, as it is in the containers."""
        root = f"/proc/{Path(self._disk.disk).parts[2]}/root"
        if word == self.settings.kifa_bin:
            return "kifa"
        return "python3" if word == sys.executable else word.replace(root, "")

    def _addresses(self, source: str) -> list[str]:
        if source == "stdin":
            return [self._fifo("target.in"), self._fifo("target.out")]
        return [self._tcp if source == "tcp" else str(self._unix)]

    def _with_fifos(self, command: Sequence[str], name: str) -> str:
        into, out = self._fifo(f"{name}.in"), self._fifo(f"{name}.out")
        return f"{shlex.join(command)} <{shlex.quote(into)} >{shlex.quote(out)}"

    def _fifo(self, name: str) -> str:
        """Make a FIFO, if it is not there, and hold both of its ends, so that nobody waits for the other one."""
        path = self._sockets / name
        if name not in self._fifos:
            os.mkfifo(path)
            self._fifos[name] = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        return str(path)

    def _close_fifos(self) -> None:
        for name, fd in self._fifos.items():
            os.close(fd)
            (self._sockets / name).unlink()
        self._fifos.clear()

    def _make_sender(self, plan: CyclePlan, source: str) -> StreamSender:
        fds = self._fifos[f"{source}.in"], self._fifos[f"{source}.out"]
        return RelayedSender(source, self._lines(plan, source), *fds)

    def close(self) -> None:
        super().close()
        self._close_fifos()
