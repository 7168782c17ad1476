"""A client of the daemon for applications: every line sent is answered when it is durable.

with kifa.connect("127.0.0.1:5514") as client:
    lsn = client.send(b"receipt 17")
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterable, Sequence
from types import TracebackType

from kifa._typing import Self
from kifa.config import FRAMINGS, parse_address
from kifa.errors import (
    ClosedError,
    ConnectionLostError,
    EntryRefusedError,
    ForkedError,
    KifaError,
    UsageError,
)

DEFAULT_TIMEOUT_SECONDS = 30.0
MAX_UNANSWERED = 16 * 1024
"""Most lines in flight: so many are unknown, at most, when the connection breaks."""
CHUNK_SIZE_BYTES = 64 * 1024
MAX_ANSWER_SIZE_BYTES = 4096


class Exchange:
    """Lines on their way, and their answers, in order. Does no input or output itself."""

    def __init__(self, frames: Sequence[bytes]) -> None:
        self.lsns: list[int | None] = []
        self._frames = frames
        self._handed_out = 0
        self._refused = ""

    def next_chunk(self) -> bytes:
        """Return what to send next; nothing if all was, or if too many answers are due."""
        start, size = self._handed_out, 0
        stop = min(len(self._frames), len(self.lsns) + MAX_UNANSWERED)
        while self._handed_out < stop and size < CHUNK_SIZE_BYTES:
            size += len(self._frames[self._handed_out])
            self._handed_out += 1
        return b"".join(self._frames[start : self._handed_out])

    def give_up_the_rest(self) -> None:
        """What was not handed out is not sent any more."""
        self._frames = self._frames[: self._handed_out]

    @property
    def wants_answers(self) -> int:
        """How many lines that were sent have no answer yet."""
        return self._handed_out - len(self.lsns)

    @property
    def is_sent(self) -> bool:
        """Whether every line was handed out."""
        return self._handed_out == len(self._frames)

    @property
    def is_done(self) -> bool:
        """Whether every line has its answer."""
        return len(self.lsns) == len(self._frames)

    def take_answer(self, answer: bytes) -> None:
        """Note the answer to the oldest line without one.

        Raises:
            KifaError: this is no answer of a daemon.
        """
        kind, _, content = answer.partition(b" ")
        if self.wants_answers == 0:
            raise KifaError(f"{answer[:80]!r} answers nothing that was sent")
        if kind == b"ACK" and content.isdigit():
            self.lsns.append(int(content))
        elif kind == b"ERR":
            self.lsns.append(None)
            self._refused = self._refused or content.decode("utf-8", "replace")
        else:
            raise KifaError(f"{answer[:80]!r} is no answer of a Kifa daemon")

    def result(self) -> list[int]:
        """Return the LSNs of all lines.

        Raises:
            EntryRefusedError: the daemon refused some.
        """
        if self._refused:
            raise EntryRefusedError(self._refused, self.lsns)
        return [lsn for lsn in self.lsns if lsn is not None]

    def lost(self, reason: str) -> ConnectionLostError:
        """Return the error for a connection that broke before all answers came."""
        if self._refused:
            reason += f" (it had said: {self._refused})"
        return ConnectionLostError(reason, list(self.lsns), self._handed_out - len(self.lsns))


class Answers:
    """Cuts what arrives into answers."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the answers that are whole by now.

        Raises:
            KifaError: what arrives cannot be an answer.
        """
        *answers, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_ANSWER_SIZE_BYTES:
            raise KifaError(f"{self._rest[:80]!r}... is no answer of a Kifa daemon")
        return answers


def check_framing(framing: str) -> None:
    """Raise UsageError unless this is the name of a framing."""
    if framing not in FRAMINGS:
        raise UsageError(f"framing is {framing!r}; it must be one of {', '.join(FRAMINGS)}")


def frame_all(items: Iterable[bytes], framing: str) -> list[bytes]:
    """Return ``items`` as they are sent.

    Raises:
        UsageError: one of them cannot be sent in this framing; nothing was.
    """
    if framing == "octet-counting":
        return [b"%d %b" % (len(data), data) for data in items]
    frames = [b"%b\n" % data for data in items]
    for frame in frames:
        if frame.find(b"\n") != len(frame) - 1 or frame.endswith(b"\r\n"):
            raise UsageError(
                "an entry sent as a line must not contain a line end, nor end with a carriage return;"
                " use framing='octet-counting' with a daemon that does"
            )
    return frames


def parse_target(address: str) -> str | tuple[str, int]:
    """Return the path of a Unix socket, or (host, port).

    Raises:
        UsageError: it is neither.
    """
    if "/" in address:
        return os.path.expanduser(address)  # noqa: PTH111  (sockets take texts)
    try:
        host, port = parse_address(address)
    except ValueError as error:
        raise UsageError(f"{error}; the path of a Unix socket has a slash") from None
    return host or "localhost", port


class Client:
    """One connection to a daemon that runs with ``--ack``. Threads may share it; a forked child must not."""

    def __init__(
        self,
        address: str,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        framing: str = "newline",
    ) -> None:
        """Connect.

        Args:
            address: ``host:port``, or the path of a Unix socket.
            timeout_seconds: how long to wait for the connection, and then for signs of life of the daemon.
            framing: "newline", or "octet-counting" if the daemon was told so; then entries may contain line ends.

        Raises:
            UsageError: the address or the framing is none.
            OSError: nobody listens there.
        """
        check_framing(framing)
        target = parse_target(address)
        self.address = address
        self._framing = framing
        self._timeout_seconds = timeout_seconds
        if isinstance(target, str):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                self._socket.settimeout(timeout_seconds)
                self._socket.connect(target)
            except BaseException:
                self._socket.close()
                raise
        else:
            self._socket = socket.create_connection(target, timeout_seconds)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._answers = Answers()
        self._lock = threading.RLock()
        self._is_busy = False
        self._process_id = os.getpid()

    def send(self, data: bytes) -> int:
        """Send one entry and return its LSN: it is durable.

        Raises:
            UsageError: ``data`` contains a line end, or ends with a carriage return, which the daemon would take off.
            EntryRefusedError: the daemon refused it, and says why.
            ConnectionLostError: the connection broke, or no answer came; whether the entry is stored is not known.
            ClosedError: the client was closed, or lost its connection before.
            ForkedError: the connection belongs to the parent process.
        """
        return self.send_many((data,))[0]

    def send_many(self, items: Iterable[bytes]) -> list[int]:
        """Send many entries without waiting for each, and return their LSNs: all are durable. Raises as `send`.

        After EntryRefusedError the other entries are stored; ``lsns`` of the error has their LSNs, None for what was
        refused. After ConnectionLostError ``lsns`` has the answers that came, ``unknown`` says which entries may be
        stored or not; those behind them were not sent. After UsageError nothing was sent.
        """
        if self._process_id != os.getpid():
            raise ForkedError("the connection belongs to the parent process; connect again here")
        exchange = Exchange(frame_all(items, self._framing))
        with self._lock:
            if self._socket.fileno() < 0:
                raise ClosedError("the connection is closed; connect again")
            if self._is_busy:
                raise KifaError("a signal handler cannot use the client that it interrupts")
            self._is_busy = True
            try:
                self._run(exchange)
            except BaseException:
                # Answers may be under way that nobody would know what they belong to.
                self.close()
                raise
            finally:
                self._is_busy = False
        return exchange.result()

    def _run(self, exchange: Exchange) -> None:
        """Send and receive at once: neither waits for the other, so that full buffers on both sides do not matter."""
        chunk = memoryview(exchange.next_chunk())
        lost = ""
        while not exchange.is_done:
            if not chunk and not lost:
                chunk = memoryview(exchange.next_chunk())
            if chunk and not lost:
                try:
                    chunk = chunk[self._socket.send(chunk) :]
                except BlockingIOError:
                    pass
                except OSError as error:
                    # What was answered before can still be read.
                    lost = error.strerror or str(error)
            if not self._wait(bool(chunk) and not lost):
                raise exchange.lost(
                    f"no answer from {self.address} for {self._timeout_seconds:g} s;"
                    " does the daemon run with --ack?"
                )
            try:
                data = self._socket.recv(CHUNK_SIZE_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise exchange.lost(lost or error.strerror or str(error)) from error
            if not data:
                raise exchange.lost(lost or f"{self.address} closed the connection")
            try:
                for answer in self._answers.feed(data):
                    exchange.take_answer(answer)
            except KifaError as error:
                raise exchange.lost(str(error)) from error

    def _wait(self, writes: bool) -> bool:
        self._poll.register(self._socket, select.POLLIN | (select.POLLOUT if writes else 0))
        return bool(self._poll.poll(self._timeout_seconds * 1000))

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands, as far as is known without sending: the daemon has not closed it."""
        with self._lock:
            try:
                return self._socket.fileno() >= 0 and bool(self._socket.recv(1, socket.MSG_PEEK))
            except BlockingIOError:
                return True
            except OSError:
                return False

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
