"""Lines over TCP and Unix sockets, each answered on the connection it came from."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from kifa._lines import LineBuffer
from kifa.errors import UnwritableError
from kifa.event_loop import BROKEN, READABLE, WRITABLE, Timer
from kifa.ingest import Answers, Ingest
from kifa.sources.octets import OctetStream

log = logging.getLogger(__name__)

BACKLOG = 1024
CHUNK_SIZE_BYTES = 64 * 1024
# A sender with so many unread answers is not read from, and cut off if it takes none of them for so long.
MAX_UNREAD_ANSWERS_BYTES = 256 * 1024
UNREAD_ANSWERS_SECONDS = 30.0
CLOSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How a listener treats its senders."""

    max_connections: int
    max_line_size_bytes: int
    idle_timeout_seconds: int
    octet_counting: bool
    ack: bool


def listen_tcp(host: str, port: int) -> socket.socket:
    """Return a listening socket; no host is every interface, IPv6 included."""
    try:
        if not host:
            return socket.create_server(
                ("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
            )
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UnwritableError(
            f"cannot listen on {host}:{port}: {error.strerror or error}"
        ) from None


def listen_unix(path: str) -> socket.socket:
    """Return a listening socket at ``path``, in place of one that nobody listens on any more."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(Path(path).stat().st_mode):
                try:
                    listener.connect(path)
                except ConnectionRefusedError:
                    Path(path).unlink()
                else:
                    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UnwritableError(f"cannot listen on {path}: {error.strerror or error}") from None
    return listener


class StreamListener:
    """Accepts senders. A broken one, or too many, never stop it."""

    def __init__(self, ingest: Ingest, listener: socket.socket, name: str, limits: Limits) -> None:
        self.ingest = ingest
        self.name = name
        self.limits = limits
        self.connections: set[Connection] = set()
        self._listener = listener
        # Given up to accept, and close, a sender when no descriptor is left.
        self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        listener.setblocking(False)
        ingest.loop.add(listener.fileno(), READABLE, self._on_sender)
        log.info("listening on %s", listener.getsockname())

    def _on_sender(self, _events: int) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away_one()
            return
        if len(self.connections) >= self.limits.max_connections:
            log.warning("%s: more than %d connections", self.name, self.limits.max_connections)
            with contextlib.suppress(OSError):
                peer.send(b"ERR too many connections\n")
            peer.close()
            return
        self.connections.add(Connection(self, peer))

    def _turn_away_one(self) -> None:
        log.error("%s: no descriptor left for another connection", self.name)
        os.close(self._reserve)
        try:
            with contextlib.suppress(OSError):
                self._listener.accept()[0].close()
        finally:
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def stop(self) -> None:
        """Accept and read no more; store what was read."""
        self.ingest.loop.remove(self._listener.fileno())
        for connection in list(self.connections):
            connection.stop()

    def close(self) -> None:
        """Send the answers that are left, close, and remove the name of a Unix socket."""
        for connection in list(self.connections):
            connection.close_after_answers()
        if self._listener.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):
                Path(self._listener.getsockname()).unlink()
        self._listener.close()
        os.close(self._reserve)


class Connection:
    """One sender."""

    def __init__(self, owner: StreamListener, peer: socket.socket) -> None:
        peer.setblocking(False)
        if peer.family != socket.AF_UNIX:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._owner = owner
        self._ingest = owner.ingest
        self._peer = peer
        limits = owner.limits
        self._stream: LineBuffer | OctetStream = (
            OctetStream(limits.max_line_size_bytes)
            if limits.octet_counting
            else LineBuffer(limits.max_line_size_bytes, CHUNK_SIZE_BYTES)
        )
        self._answers = Answers() if limits.ack else None
        self._out = bytearray()
        self._events = 0
        self._ended = False
        self._blocked = False
        self._closed = False
        self._last_read = time.monotonic()
        self._stall: Timer | None = None
        if self._answers is not None:
            self._ingest.answer_through(self._answers, self._send)
        if limits.idle_timeout_seconds:
            self._ingest.loop.call_later(limits.idle_timeout_seconds, self._check_idle)
        self._update_events()

    def _update_events(self) -> None:
        """Wait for what can be done now. For nothing, not even a hang-up, while the disk is full."""
        if self._closed:
            return
        reads = not (self._ended or self._blocked or len(self._out) > MAX_UNREAD_ANSWERS_BYTES)
        wanted = (READABLE if reads else 0) | (WRITABLE if self._out else 0)
        if wanted == self._events:
            return
        descriptor = self._peer.fileno()
        if not self._events:
            self._ingest.loop.add(descriptor, wanted, self._on_events)
        elif not wanted:
            self._ingest.loop.remove(descriptor)
        else:
            self._ingest.loop.modify(descriptor, wanted)
        self._events = wanted

    def _on_events(self, events: int) -> None:
        if events & WRITABLE:
            self._write()
        if self._events & READABLE and events & (READABLE | BROKEN):
            self._read()
        elif events & BROKEN:
            self._drop("the sender has gone")

    def _read(self) -> None:
        try:
            size = self._stream.read_from(self._peer.fileno())
        except BlockingIOError:
            return
        except OSError as error:
            # What came before the reset is whole lines, or a half one that the sender knows it did not end.
            log.info("%s: a sender broke off: %s", self._owner.name, error.strerror)
            self._end()
            return
        self._last_read = time.monotonic()
        if size == 0:
            self._end()
        else:
            self._store()

    def _end(self) -> None:
        self._ended = True
        self._stream.finish()
        self._store()

    def _store(self) -> None:
        if self._closed:
            return
        self._blocked = not self._frame()
        if self._blocked:
            self._ingest.wait_for_space(self, self._store)
        elif isinstance(self._stream, OctetStream) and self._stream.is_broken:
            self._ended = True
        self._update_events()
        self._close_if_done()

    def _frame(self) -> bool:
        if isinstance(self._stream, LineBuffer):
            return self._ingest.store_lines(self._stream, self._answers, name=self._owner.name)
        return self._stream.store(self._ingest, self._answers, self._owner.name)

    def _close_if_done(self) -> None:
        if self._ended and not self._blocked and not self._answers and not self._out:
            self._drop("")

    def _send(self, data: bytes) -> None:
        self._out += data
        self._write()

    def _write(self) -> None:
        try:
            sent = self._peer.send(self._out)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop("the sender has gone before its answers")
            return
        del self._out[:sent]
        if self._stall is not None and (sent or not self._out):
            self._stall.cancel()
            self._stall = None
        if self._out and self._stall is None:
            self._stall = self._ingest.loop.call_later(
                UNREAD_ANSWERS_SECONDS, lambda: self._drop("the sender does not read its answers")
            )
        self._update_events()
        self._close_if_done()

    def _check_idle(self) -> None:
        if self._closed:
            return
        limit = self._owner.limits.idle_timeout_seconds
        left = self._last_read + limit - time.monotonic()
        if left <= 0 and not self._blocked:
            log.info("%s: a sender was silent for %d s", self._owner.name, limit)
            self._end()
        else:
            self._ingest.loop.call_later(max(left, 1.0), self._check_idle)

    def _drop(self, reason: str) -> None:
        if self._closed:
            return
        if reason:
            log.info("%s: connection closed: %s", self._owner.name, reason)
        self._closed = True
        if self._stall is not None:
            self._stall.cancel()
        if self._events:
            self._ingest.loop.remove(self._peer.fileno())
        if self._answers is not None:
            self._ingest.forget(self._answers)
        self._owner.connections.discard(self)
        self._peer.close()

    def stop(self) -> None:
        """Read no more; a half line is stored too, but where its sender would see that it was not acknowledged."""
        if self._ended:
            return
        self._ended = True
        if self._answers is None:
            self._stream.finish()
        if not self._frame():
            self._ingest.lost += self._stream.refuse()
        self._update_events()

    def close_after_answers(self) -> None:
        """Send what is left, for a bounded time, and close."""
        self._peer.settimeout(CLOSE_SECONDS)
        with contextlib.suppress(OSError):
            self._peer.sendall(self._out)
            self._peer.shutdown(socket.SHUT_WR)
        self._drop("")
