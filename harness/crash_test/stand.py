"""The test stand: the running target, its store, and those who send to it."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness.crash_test.clock import clock_environment, remove_clock
from harness.crash_test.ledger import Ledger
from harness.crash_test.look import Look
from harness.crash_test.plan import CyclePlan
from harness.crash_test.power import Power
from harness.crash_test.processes import Child, ReadySocket, TargetProcess
from harness.crash_test.senders import FileSender, Sender, StreamSender, connect
from harness.crash_test.settings import Settings
from harness.crash_test.targets import Inputs, Target
from harness.crash_test.workload import lines


def now_ms() -> int:
    """The time of the wall clock in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@dataclass
class Store:
    """A store under test, and what is known about it."""

    path: Path
    ledger: Ledger = field(default_factory=Ledger)
    file: FileSender | None = None
    examined_at_ms: int = field(default_factory=now_ms)
    """When it was last examined, by the wall clock: what is new has a later time."""


class Stand:
    """Owns the target's process, the senders and the store of the moment."""

    held_ms = 20

    def __init__(
        self, settings: Settings, power: Power, target: Target, work: Path, sockets: Path
    ) -> None:
        """Nothing is started yet.

        Args:
            work: a directory outside of the disk, for the followed file and what the target says.
            sockets: a directory with a short name.
        """
        self.settings = settings
        self.power = power
        self.target = target
        self.work = work
        self.senders: list[Sender] = []
        self.store = Store(power.disk / "store-0")
        self.child: TargetProcess | None = None
        self._has_clock = False
        self._stores = 0
        self._sockets = sockets
        self._ready = ReadySocket(sockets / "ready")
        self._connections: list[socket.socket] = []
        # An address of its own, so that no port can be in use.
        octets = random.Random().sample(range(2, 250), 3)
        self._tcp = f"127.{octets[0]}.{octets[1]}.{octets[2]}:5514"
        self._unix = sockets / "lines"
        self.snapshot = work / "after-cut"
        """The disk as it was after the last cut: for the readers, and as evidence."""
        self.log_path = work / "target.log"
        self._log = self.log_path.open("ab")

    def new_store(self) -> None:
        """Go on with a store that does not exist yet; the old one is removed."""
        self._stores += 1
        if self.store.file is not None:
            self.store.file.close()
        for path in self.work.glob("followed.log*"):
            path.unlink()
        with suppress(FileNotFoundError):
            shutil.rmtree(self.store.path)
        self.store = Store(self.power.disk / f"store-{self._stores}")

    def start(self, plan: CyclePlan) -> bool:
        """Start the target for the senders of ``plan``; return whether it got ready, or ended before.

        Raises:
            NotReadyError: neither came in time.
        """
        self.begin_start(plan)
        return self.await_ready()

    def begin_start(self, plan: CyclePlan) -> None:
        """Start it, and do not wait."""
        self._unix.unlink(missing_ok=True)
        self._has_clock = plan.faults == "clock"
        environment = clock_environment(self.work) if self._has_clock else {}
        if plan.source == "file" and self.store.file is None:
            path = self.work / "followed.log"
            self.store.file = FileSender("file", iter(()), path)
            self.store.ledger.add_sender(self.store.file)
        inputs = Inputs(
            stdin=plan.source == "stdin",
            tcp=self._tcp if plan.source == "tcp" else None,
            unix=self._unix if plan.source == "unix" else None,
            file=self.store.file.path if self.store.file is not None else None,
        )
        self.child = self._start_target(
            self.target.command(self.store.path, inputs),
            plan,
            self._ready.environment | environment,
        )

    def _start_target(
        self, command: Sequence[str], plan: CyclePlan, environment: Mapping[str, str]
    ) -> TargetProcess:
        is_piped = plan.source == "stdin"
        return Child(
            command,
            stdin=subprocess.PIPE if is_piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if is_piped else self._log,
            stderr=self._log,
            environment=environment,
        )

    def await_ready(self) -> bool:
        """Wait until the target is ready; False if it ended before.

        Raises:
            NotReadyError: neither came in time.
        """
        assert self.child is not None
        return self._ready.wait(self.child, self.settings.patience_seconds)

    def open_senders(self, plan: CyclePlan) -> None:
        """Connect the senders of ``plan`` to the running target."""
        self.close_senders()
        if plan.source == "file":
            assert self.store.file is not None
            self.store.file.begin_cycle(self._lines(plan, f"file-{plan.number}"))
            self.senders = [self.store.file]
            return
        for source in self.stream_names(plan):
            sender = self._make_sender(plan, source)
            self.store.ledger.add_sender(sender)
            self.senders.append(sender)

    def stream_names(self, plan: CyclePlan) -> list[str]:
        """Return the names of the senders that are answered."""
        if plan.source == "file":
            return []
        return [f"{plan.source}-{plan.number}-{n}" for n in range(1, plan.connections + 1)]

    def _make_sender(self, plan: CyclePlan, source: str) -> StreamSender:
        return StreamSender(source, self._lines(plan, source), *self._open(plan.source))

    def _lines(self, plan: CyclePlan, source: str) -> Iterator[bytes]:
        return lines(plan.seed, source, heavy=plan.heavy)

    def _open(self, source: str) -> tuple[int, int]:
        if source == "stdin":
            assert isinstance(self.child, Child)
            process = self.child.process
            assert process.stdin is not None
            assert process.stdout is not None
            return process.stdin.fileno(), process.stdout.fileno()
        self._connections.append(connect(self._tcp if source == "tcp" else self._unix))
        fd = self._connections[-1].fileno()
        return fd, fd

    def look(self, store: Path, from_lsn: int = 1) -> Look | None:
        """Begin a look at a store; None if the target has no reader for that."""
        command = self.target.look_command(store, from_lsn)
        return None if command is None else Look(command, self.target.parse)

    def last_words(self) -> str:
        """Return the last line that the target said on standard error."""
        said = self.log_path.read_bytes()[-4096:].decode(errors="replace").splitlines()
        return said[-1] if said else "it said nothing"

    def prepare_cut(self) -> None:
        """Have the disk hold the last lines, which are about to be sent, until the kill: they are to be at stake."""
        if self.power.has_faults:
            self.power.command("slow", op="*sync", delay_ms=self.held_ms)

    def end_child(self) -> int | None:
        """Kill the target, if it is there; return its exit code."""
        if self.child is None:
            return None
        code = self.child.kill()
        self.child.close()
        if self._has_clock and isinstance(self.child, Child):  # a container takes its own with it
            remove_clock(self.child.pid)
        self.child = None
        return code

    def close_senders(self) -> None:
        """Hang up."""
        for connection in self._connections:
            connection.close()
        self._connections.clear()
        self.senders = []

    def close(self) -> None:
        """End everything that runs."""
        self.close_senders()
        self.end_child()
        if self.store.file is not None:
            self.store.file.close()
        self._ready.close()
        self._log.close()
