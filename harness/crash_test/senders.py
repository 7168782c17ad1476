"""Those who send lines to a target, and hear what it answers."""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from harness.crash_test.errors import CrashTestError
from harness.oracle import Entry

BUFFER_SIZE_BYTES = 256 * 1024


class Sender(Protocol):
    """One sender: its lines keep their order."""

    source: str
    sent: list[bytes]
    """The lines given to the target so far, but for those it refused."""

    @property
    def unanswered(self) -> int:
        """How many of them were neither confirmed nor refused."""

    @property
    def is_congested(self) -> bool:
        """Whether enough is waiting to be written."""

    def send(self, count: int) -> None:
        """Write ``count`` more lines, or as much as the target takes now."""


class StreamSender:
    """Sends through a pipe or a socket; each line is answered, in order."""

    def __init__(self, source: str, lines: Iterator[bytes], out_fd: int, in_fd: int) -> None:
        self.source = source
        self.out_fd = out_fd
        self.in_fd = in_fd
        self.sent: list[bytes] = []
        self.refused = 0
        self.accepted: list[tuple[int, bytes]] = []
        """(LSN, line) of those that were accepted, and perhaps not confirmed, since somebody took them from here."""
        self._accepted = 0  # how many of those that are awaited were
        self._lines = lines
        self._buffer = bytearray()
        self._awaiting: deque[bytes] = deque()
        self._unwritten: deque[int] = deque()  # where each line ends that is not wholly written
        self._queued_bytes = self._written_bytes = 0
        self._answer = b""
        self.is_open = True
        os.set_blocking(out_fd, False)
        os.set_blocking(in_fd, False)

    @property
    def unanswered(self) -> int:
        return len(self._awaiting)

    @property
    def is_congested(self) -> bool:
        return len(self._buffer) > BUFFER_SIZE_BYTES or not self.is_open

    @property
    def wants_to_write(self) -> bool:
        return bool(self._buffer) and self.is_open

    def send(self, count: int) -> None:
        for _ in range(count):
            line = next(self._lines)
            self.sent.append(line)
            self._awaiting.append(line)
            self._buffer += line + b"\n"
            self._queued_bytes += len(line) + 1
            self._unwritten.append(self._queued_bytes)
        self.write()

    def write(self) -> None:
        """Write what the target takes now."""
        try:
            while self._buffer:
                written = os.write(self.out_fd, self._buffer)
                del self._buffer[:written]
                self._written_bytes += written
        except BlockingIOError:
            pass
        except OSError:  # it is gone; whoever waits for its end notices
            self.is_open = False
        while self._unwritten and self._unwritten[0] <= self._written_bytes:
            self._unwritten.popleft()

    def receive(self) -> list[tuple[int, bytes]]:
        """Read the answers that are there; return (LSN, line) of those confirmed.

        Raises:
            CrashTestError: an answer is none, or to no line.
        """
        confirmed = []
        for answer in self._read_answers():
            word, _, rest = answer.partition(b" ")
            is_acceptance = word == b"ACC" and rest.isdigit()
            if len(self._awaiting) <= (self._accepted if is_acceptance else 0):
                raise CrashTestError(f"{self.source}: {answer!r} answers no line")
            if is_acceptance:
                self.accepted.append((int(rest), self._awaiting[self._accepted]))
                self._accepted += 1
                continue
            line = self._awaiting.popleft()
            self._accepted = max(self._accepted - 1, 0)
            if word == b"ACK" and rest.isdigit():
                confirmed.append((int(rest), line))
            elif word == b"ERR":
                self.refused += 1
                self.sent.remove(line)
            else:
                raise CrashTestError(f"{self.source}: {answer!r} is no answer")
        return confirmed

    def _read_answers(self) -> list[bytes]:
        try:
            while chunk := os.read(self.in_fd, 1 << 16):
                self._answer += chunk
            self.is_open = False
        except BlockingIOError:
            pass
        except OSError:
            self.is_open = False
        *answers, self._answer = self._answer.split(b"\n")
        return answers

    def drop_unwritten(self) -> None:
        """The target is dead: what it was never given was not sent."""
        begun = len(self._unwritten) - (1 if self._is_begun() else 0)
        for _ in range(begun):
            self.sent.pop()
            self._awaiting.pop()
        self._unwritten.clear()
        self._buffer.clear()

    def _is_begun(self) -> bool:
        """Whether some of the first line that is not wholly written was."""
        if not self._unwritten:
            return False
        lines_after = self._queued_bytes - self._unwritten[0]
        first_size_bytes = len(self.sent[-len(self._unwritten)]) + 1
        return len(self._buffer) < lines_after + first_size_bytes


class FileSender:
    """Appends to a file that the target follows; nothing is answered, a reader shows what is stored."""

    def __init__(self, source: str, lines: Iterator[bytes], path: Path) -> None:
        self.source = source
        self.path = path
        self.sent: list[bytes] = []
        self._lines = lines
        self._unshown: set[bytes] = set()
        self._rotations = 0
        self._file = path.open("ab", buffering=0)

    @property
    def unanswered(self) -> int:
        return len(self._unshown)

    @property
    def is_congested(self) -> bool:
        return False

    def begin_cycle(self, lines: Iterator[bytes]) -> None:
        """Go on with other lines."""
        self._lines = lines

    def send(self, count: int) -> None:
        lines = [next(self._lines) for _ in range(count)]
        self.sent += lines
        self._unshown.update(lines)
        self._file.write(b"".join(line + b"\n" for line in lines))

    def rotate(self) -> None:
        """Rename the file and begin a new one."""
        self._rotations += 1
        self.path.rename(self.path.with_name(f"{self.path.name}.{self._rotations}"))
        self._file.close()
        self._file = self.path.open("ab", buffering=0)

    def show(self, entries: Iterable[Entry]) -> int:
        """A reader has shown ``entries``; return how many lines nobody has shown yet."""
        self._unshown.difference_update(entry.data for entry in entries)
        return len(self._unshown)

    def close(self) -> None:
        self._file.close()


def connect(address: str | Path, deadline_s: float = 10.0) -> socket.socket:
    """Connect to "host:port" or to the Unix socket at a path.

    Raises:
        CrashTestError: nobody listens there.
    """
    if isinstance(address, Path):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        target: str | tuple[str, int] = str(address)
    else:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        host, _, port = address.rpartition(":")
        target = (host, int(port))
    connection.settimeout(deadline_s)
    try:
        connection.connect(target)
    except OSError as error:
        connection.close()
        raise CrashTestError(f"{address}: the target does not listen there: {error}") from None
    return connection


def readable(fds: list[int], timeout_s: float) -> set[int]:
    """Wait until one of the descriptors can be read; return those that can."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return {fd for fd, _ in poll.poll(timeout_s * 1000)}
