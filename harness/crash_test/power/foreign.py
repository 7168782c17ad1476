"""A mount that somebody else runs, the original LazyFS included, driven through its FIFOs."""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

from harness.crash_test.errors import CrashTestError
from harness.crash_test.power.blind import BlindPower

CLEAR = b"lazyfs::clear-cache"
CLEARED = b"finished::clear-cache"
ANSWER_DEADLINE_S = 30.0


class ForeignPower(BlindPower):
    """Cuts with ``lazyfs::clear-cache``. It is never mounted, unmounted or configured here.

    The mount must run when the power is cut, and no process of the target: kill, wait, clear, restart.
    """

    name = "lazyfs"
    loses_power = True

    def __init__(self, mount_point: Path, fifo: Path, completed: Path | None) -> None:
        """Use the mount at ``mount_point``.

        Args:
            completed: where it says that a command was carried out; None if it does not.

        Raises:
            CrashTestError: nothing is mounted there.
        """
        if not os.path.ismount(mount_point):
            raise CrashTestError(f"{mount_point}: nothing is mounted there; start LazyFS first")
        self.disk = mount_point / "kifa-crash-test"
        self._fifo = fifo
        self._completed = completed
        self.disk.mkdir(exist_ok=True)

    def cut(self) -> str:
        answers = None if self._completed is None else self._open(self._completed, os.O_RDONLY)
        try:
            # LazyFS reads at most 100 bytes at a time: one command for each read.
            commands = self._open(self._fifo, os.O_WRONLY)
            os.write(commands, CLEAR + b"\n")
            os.close(commands)
            if answers is not None:
                self._await(answers)
        finally:
            if answers is not None:
                os.close(answers)
        return "the cache was cleared"

    def _open(self, path: Path, flags: int) -> int:
        try:
            return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise CrashTestError(f"{path}: LazyFS does not answer: {error.strerror}") from None

    def _await(self, answers: int) -> None:
        poll = select.poll()
        poll.register(answers, select.POLLIN)
        end = time.monotonic() + ANSWER_DEADLINE_S
        received = b""
        while CLEARED not in received:
            left_s = end - time.monotonic()
            if left_s <= 0 or not poll.poll(left_s * 1000):
                raise CrashTestError(f"{self._completed}: no {CLEARED.decode()} in time")
            try:
                chunk = os.read(answers, 4096)
            except BlockingIOError:
                continue
            received += chunk
            if not chunk:  # nobody has opened it for writing yet
                time.sleep(0.002)
