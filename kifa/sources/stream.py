"""Lines over TCP and Unix sockets, each answered on the connection it came from.

A connection is **plain** while nothing but lines is expected from it and its socket takes all its answers: then
`kifa._senders` reads, frames and answers, for all of them at once, in C. Everything else is here: those that come
and go, fail, do not read their answers, wait for space or are at their end; and octet counting.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import select
import socket
import stat
import time
from pathlib import Path

from kifa._answers import Answers
from kifa._lines import LineBuffer
from kifa._senders import Sender
from kifa._typing import NamedTuple
from kifa.errors import UnwritableError
from kifa.event_loop import BROKEN, READABLE, WRITABLE, Timer
from kifa.ingest import Ingest
from kifa.sources import plain_host, waiting_bytes
from kifa.sources.octets import OctetStream

log = logging.getLogger(__name__)

BACKLOG = 1024
ACCEPTED_PER_ROUND = 64
CHUNK_SIZE_BYTES = 64 * 1024
# What the store, the listeners and a few followed files need.
RESERVED_DESCRIPTORS = 64
# How long to wait for a descriptor where not even one to turn senders away is left.
EXHAUSTED_SECONDS = 0.5
# A sender with so many unread answers is not read from, and cut off if it takes none of them for so long.
MAX_UNREAD_ANSWERS_BYTES = 256 * 1024
UNREAD_ANSWERS_SECONDS = 30.0
# For all senders together, at the end of the daemon.
CLOSE_SECONDS = 2.0
MAX_DISCARDED_READS = 64


def room_for_connections(wanted: int) -> int:
    """Raise the limit of open files as far as allowed, and return how many connections it leaves room for.

    A connection must never take the descriptor that the store needs for its next segment.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(
                resource.RLIMIT_NOFILE,
                (needed if hard == resource.RLIM_INFINITY else min(needed, hard), hard),
            )
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        if soft < needed:
            room = max(1, soft - RESERVED_DESCRIPTORS)
            log.warning("at most %d connections: only %d files may be open", room, soft)
            return room
    return wanted


class Limits(NamedTuple):
    """How a listener treats its senders."""

    max_connections: int
    max_line_size_bytes: int
    idle_timeout_seconds: int
    octet_counting: bool
    ack: bool


def listen_tcp(host: str, port: int) -> list[socket.socket]:
    """Return listening sockets on all addresses of ``host``; no host is every interface, IPv6 included.

    An address that this machine does not have (``::1`` where IPv6 is off) is left out, unless it is the only one.
    Port 0 is a free port, another one for each.

    Raises:
        UnwritableError: one of them is in use, or there is none.
    """
    listeners: list[socket.socket] = []
    absent: OSError | None = None
    try:
        if not host:
            return [
                socket.create_server(
                    ("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True
                )
            ]
        found = socket.getaddrinfo(plain_host(host), port, type=socket.SOCK_STREAM)
        for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
            try:
                listeners.append(socket.create_server(address, family=family, backlog=BACKLOG))
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                absent = error
        if absent is not None and not listeners:
            raise absent
        return listeners
    except OSError as error:
        for listener in listeners:
            listener.close()
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

    def __init__(
        self,
        ingest: Ingest,
        listener: socket.socket,
        name: str,
        limits: Limits,
        all_connections: set[Connection],
    ) -> None:
        """Begin to listen.

        Args:
            all_connections: those of all listeners, which share one limit.
        """
        self.ingest = ingest
        self.name = name
        self.limits = limits
        self._connections = all_connections
        self._listener = listener
        self._is_stopped = False
        self._is_full = False
        self._idle_timer: Timer | None = None
        # Given up to accept, and close, a sender when no descriptor is left; -1 where there is none for it either.
        self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        listener.setblocking(False)
        ingest.loop.add(listener.fileno(), READABLE, self._on_sender)
        log.info("listening on %s", listener.getsockname())

    def _on_sender(self, _events: int) -> None:
        for _ in range(ACCEPTED_PER_ROUND):
            try:
                peer, _ = self._listener.accept()
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._turn_away_one()
                return
            self._welcome(peer)

    def _welcome(self, peer: socket.socket) -> None:
        if len(self._connections) >= self.limits.max_connections:
            self._note_full(f"more than {self.limits.max_connections} connections")
            with contextlib.suppress(OSError):
                peer.send(b"ERR too many connections\n")
            peer.close()
            return
        self._is_full = False
        self._connections.add(Connection(self, peer))
        if self.limits.idle_timeout_seconds and self._idle_timer is None:
            self._close_idle()

    def _note_full(self, what: str) -> None:
        # Once, and not for each of the thousands that may come.
        if not self._is_full:
            log.warning("%s: %s", self.name, what)
        self._is_full = True

    def _turn_away_one(self) -> None:
        self._note_full("no descriptor left for another connection")
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
        with contextlib.suppress(OSError):
            self._listener.accept()[0].close()
        # Another thread may have been faster.
        with contextlib.suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        if self._reserve < 0:
            # Nothing can be accepted, or turned away, before somebody lets go of one.
            self.ingest.loop.remove(self._listener.fileno())
            self.ingest.loop.call_later(EXHAUSTED_SECONDS, self._listen_again)

    def _listen_again(self) -> None:
        if self._listener.fileno() >= 0 and not self._is_stopped:
            self.ingest.loop.add(self._listener.fileno(), READABLE, self._on_sender)

    def _close_idle(self) -> None:
        """End the connections that were silent for too long, and look again when the next one may be."""
        limit = self.limits.idle_timeout_seconds
        left = [connection.end_if_idle(limit) for connection in self._mine()]
        self._idle_timer = (
            self.ingest.loop.call_later(max(1.0, min(left)), self._close_idle) if left else None
        )

    def _mine(self) -> list[Connection]:
        return [connection for connection in self._connections if connection.owner is self]

    def drop(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)

    def stop(self) -> None:
        """Accept and read no more; store what was read."""
        self._is_stopped = True
        self.ingest.loop.remove(self._listener.fileno())
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        for connection in self._mine():
            connection.stop()

    def close(self) -> None:
        """Send the answers that are left, close, and remove the name of a Unix socket."""
        deadline = time.monotonic() + CLOSE_SECONDS
        waiting = {}
        poll = select.poll()
        for connection in self._mine():
            descriptor = connection.descriptor
            if not connection.close_after_answers():
                waiting[descriptor] = connection
                poll.register(descriptor, select.POLLOUT)
        while waiting and (left := deadline - time.monotonic()) > 0:
            for descriptor, _events in poll.poll(left * 1000):
                if waiting[descriptor].close_after_answers():
                    poll.unregister(descriptor)
                    del waiting[descriptor]
        if waiting:
            log.warning("%s: %d senders did not read all answers", self.name, len(waiting))
        for connection in waiting.values():
            connection.drop("")
        if self._listener.family == socket.AF_UNIX:
            with contextlib.suppress(OSError):
                Path(self._listener.getsockname()).unlink()
        self._listener.close()
        if self._reserve >= 0:
            os.close(self._reserve)


class Connection(Sender):
    """One sender."""

    def __init__(self, owner: StreamListener, peer: socket.socket) -> None:
        peer.setblocking(False)
        if peer.family != socket.AF_UNIX:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        limits = owner.limits
        super().__init__(
            peer.fileno(),
            None
            if limits.octet_counting
            else LineBuffer(limits.max_line_size_bytes, CHUNK_SIZE_BYTES),
            Answers(owner.ingest.answers, self._send) if limits.ack else None,
        )
        self.owner = owner
        self._ingest = owner.ingest
        self._peer = peer
        self._stream = self.lines or OctetStream(limits.max_line_size_bytes)
        self._out = bytearray()
        self._events = 0
        self._is_plain = False
        self._ended = False
        self._blocked = False
        self._closed = False
        self._last_sent = 0.0
        self._stall: Timer | None = None
        self._update_events()

    def _update_events(self) -> None:
        """Wait for what can be done now. For nothing, not even a hang-up, while the disk is full."""
        if self._closed:
            return
        reads = not (self._ended or self._blocked or len(self._out) > MAX_UNREAD_ANSWERS_BYTES)
        if self.lines is not None and reads and not self._out:
            self._wait_for(0)
            self._become_plain(True)
        else:
            self._become_plain(False)
            self._wait_for((READABLE if reads else 0) | (WRITABLE if self._out else 0))

    def _become_plain(self, is_plain: bool) -> None:
        if is_plain == self._is_plain:
            return
        self._is_plain = is_plain
        if is_plain:
            self._ingest.plain.add(self)
        else:
            self._ingest.plain.remove(self)

    def _wait_for(self, events: int) -> None:
        if events == self._events:
            return
        if not self._events:
            self._ingest.loop.add(self.descriptor, events, self._on_events)
        elif not events:
            self._ingest.loop.remove(self.descriptor)
        else:
            self._ingest.loop.modify(self.descriptor, events)
        self._events = events

    def _on_events(self, events: int) -> None:
        if events & WRITABLE:
            self._write()
        if self._events & READABLE and events & (READABLE | BROKEN):
            self.read()
        elif events & BROKEN:
            self.drop("the sender has gone")

    def read(self) -> None:
        if self._closed:
            return
        try:
            size = self._stream.read_from(self.descriptor)
        except BlockingIOError:
            return
        except OSError as error:
            # What came before the reset is whole lines, or a half one that the sender knows it did not end.
            log.debug("%s: a sender broke off: %s", self.owner.name, error.strerror)
            self._end()
            return
        self.last_read = time.monotonic()
        if size == 0:
            self._end()
        else:
            self.store()

    def _end(self) -> None:
        self._ended = True
        self._stream.finish()
        self.store()

    def store(self) -> None:
        if self._closed:
            return
        if self.oversize:
            self._ingest.refuse_line(self.oversize, self.answers, self.owner.name)
            self.oversize = 0
        self._blocked = not self._frame()
        if self._blocked:
            self._ingest.wait_for_space(self, self.store)
        elif isinstance(self._stream, OctetStream) and self._stream.is_broken:
            self._ended = True
        self._update_events()
        self._close_if_done()

    def _frame(self) -> bool:
        if isinstance(self._stream, LineBuffer):
            return self._ingest.store_lines(self._stream, self.answers, name=self.owner.name)
        return self._stream.store(self._ingest, self.answers, self.owner.name)

    def _close_if_done(self) -> None:
        if self._ended and not self._blocked and not self.answers and not self._out:
            self.drop("")

    def _send(self, data: bytes) -> None:
        self._out += data
        self._write()

    def _write(self) -> None:
        if not self._send_out():
            return
        if self._out and self._stall is None:
            self._last_sent = time.monotonic()
            self._check_stall()
        self._update_events()
        self._close_if_done()

    def _send_out(self) -> bool:
        """Send what the socket takes of the answers; return whether the sender is still there."""
        try:
            sent = self._peer.send(self._out)
        except BlockingIOError:
            return True
        except OSError:
            self.drop("the sender has gone before its answers")
            return False
        del self._out[:sent]
        self._last_sent = time.monotonic()
        return True

    def _check_stall(self) -> None:
        self._stall = None
        left = self._last_sent + UNREAD_ANSWERS_SECONDS - time.monotonic()
        if not self._out or self._closed:
            return
        if left <= 0:
            self.drop("the sender does not read its answers")
        else:
            self._stall = self._ingest.loop.call_later(left, self._check_stall)

    def end_if_idle(self, limit_seconds: float) -> float:
        """End the connection if nothing came for so long; return after how many seconds to look again."""
        left = self.last_read + limit_seconds - time.monotonic()
        if left > 0 or self._blocked or self._ended:
            return left if left > 0 else limit_seconds
        log.debug("%s: a sender was silent for %d s", self.owner.name, limit_seconds)
        self._end()
        return limit_seconds

    def drop(self, reason: str) -> None:
        """Close the connection now."""
        if self._closed:
            return
        if reason:
            log.debug("%s: connection closed: %s", self.owner.name, reason)
        self._closed = True
        if self._stall is not None:
            self._stall.cancel()
        self._become_plain(False)
        self._wait_for(0)
        if self.answers is not None:
            self._ingest.answers.forget(self.answers)
        self.owner.drop(self)
        with contextlib.suppress(OSError):
            # What is left unread would make the kernel reset the connection, and the sender miss its last answers.
            self._peer.shutdown(socket.SHUT_WR)
            for _ in range(MAX_DISCARDED_READS):
                if not self._peer.recv(CHUNK_SIZE_BYTES):
                    break
        self._peer.close()

    def stop(self) -> None:
        """Read what has come, and no more.

        A half line is stored too, but where its sender would see that it was not acknowledged.
        """
        if self._ended and not self._blocked:
            return
        if not self._ended:
            with contextlib.suppress(OSError):
                for _ in range(waiting_bytes(self.descriptor) // CHUNK_SIZE_BYTES + 1):
                    self._stream.read_from(self.descriptor)
                    self._frame()
        self._ended = True
        if self.answers is None:
            self._stream.finish()
        if not self._frame():
            self._ingest.lost += self._stream.refuse()
        self._update_events()

    def close_after_answers(self) -> bool:
        """Send what can be sent now, and close if that is all; return whether it is closed."""
        if self._send_out() and not self._out:
            self.drop("")
        return self._closed
