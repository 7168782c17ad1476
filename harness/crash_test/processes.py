"""Child processes that never outlive the harness, whatever happens to it."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, ClassVar, Protocol

from harness.crash_test.errors import CrashTestError

END_DEADLINE_S = 30.0
_PR_SET_PDEATHSIG = 1
ENDING = (signal.SIGINT, signal.SIGTERM)
_libc = ctypes.CDLL(None)


@contextmanager
def ending_later() -> Iterator[None]:
    """Signals that end the harness wait until the block is left: what is begun in it is noted before they come."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class TargetProcess(Protocol):
    """One life of a target."""

    command: Sequence[str]
    pid: int
    """As the file system below it sees it."""
    pidfd: int
    """Becomes readable when it ends."""

    @property
    def has_ended(self) -> bool: ...

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""

    def stop(self) -> None:
        """Let it stand still, wherever it is."""

    def wait(self) -> int:
        """Wait for its end and return its exit code, negative for a signal."""

    def kill(self) -> int:
        """SIGKILL it, wait for its end, and return its exit code."""

    def close(self) -> None:
        """Kill it if it is there, and let go of what it holds. Idempotent."""


class Child:
    """A process of our own. When the harness dies, so does it: by ``death_signal``, from the kernel.

    It has a process group of its own, so that Ctrl-C reaches the harness alone, which then ends it in order.
    """

    living: ClassVar[set[Child]] = set()
    """All that were started and not closed."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdin: int | IO[Any] = subprocess.DEVNULL,
        stdout: int | IO[Any] = subprocess.DEVNULL,
        stderr: int | IO[Any] = subprocess.DEVNULL,
        environment: Mapping[str, str] | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        """Start ``command``.

        Args:
            environment: variables beside those of the harness.

        Raises:
            CrashTestError: it cannot be started.
        """
        self.command: Sequence[str] = list(command)
        parent = os.getpid()

        def die_with_parent() -> None:
            _libc.prctl(_PR_SET_PDEATHSIG, death_signal)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            if os.getppid() != parent:
                os._exit(1)

        # A signal that ends the harness must not come between the start of a child and the note that it is there.
        with ending_later():
            try:
                self.process = subprocess.Popen(
                    command,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                    env={**os.environ, **(environment or {})},
                    process_group=0,
                    preexec_fn=die_with_parent,
                )
            except OSError as error:
                raise CrashTestError(f"{command[0]}: cannot be started: {error.strerror}") from None
            self.pid = self.process.pid
            self.pidfd = os.pidfd_open(self.pid)
            """Becomes readable when the process ends."""
            self.living.add(self)

    @property
    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        self.process.send_signal(number)

    def stop(self) -> None:
        """Let it stand still, wherever it is; return when it does, or has ended."""
        self.process.send_signal(signal.SIGSTOP)
        with suppress(ChildProcessError):  # `send_signal` has found that it has ended
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def wait(self, deadline_s: float = END_DEADLINE_S) -> int:
        """Wait for its end and return its exit code, negative for a signal.

        Raises:
            CrashTestError: it did not end in time.
        """
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise CrashTestError(
                f"{self.process.args!r} (process {self.pid}) does not end"
            ) from None

    def kill(self) -> int:
        """SIGKILL it, wait for its end, and return its exit code."""
        self.process.kill()
        return self.wait()

    def close(self) -> None:
        """Kill it if it is there, and let go of its descriptors. Idempotent."""
        if self.pidfd < 0:
            return
        self.kill()
        os.close(self.pidfd)
        self.pidfd = -1
        self.living.discard(self)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with suppress(OSError):  # what is left in a buffer cannot be written any more
                    stream.close()


class NotReadyError(CrashTestError):
    """A child runs and does not get ready."""


class ReadySocket:
    """Where a child says that it is ready, in the protocol of sd_notify(3)."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.bind(str(path))
        self.environment = {"NOTIFY_SOCKET": str(path)}

    def wait(self, child: TargetProcess, deadline_s: float) -> bool:
        """Wait until ``child`` is ready, or has ended; return whether it is ready.

        Raises:
            NotReadyError: neither came in time.
        """
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(child.pidfd, select.POLLIN)
        end = time.monotonic() + deadline_s
        while (left_s := end - time.monotonic()) > 0:
            ready = {fd for fd, _ in poll.poll(left_s * 1000)}
            if self._socket.fileno() in ready:
                if b"READY=1" in self._socket.recv(65536).splitlines():
                    return True
            elif child.pidfd in ready:
                return False
        raise NotReadyError(f"{' '.join(child.command)}: not ready after {deadline_s:.0f} s")

    def close(self) -> None:
        self._socket.close()
