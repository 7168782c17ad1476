"""One entry per datagram; what the kernel had to drop is counted."""

from __future__ import annotations

import contextlib
import logging
import socket
import struct

from kifa.config import parse_address
from kifa.errors import UnwritableError
from kifa.event_loop import READABLE
from kifa.ingest import Ingest
from kifa.sources import plain_host

log = logging.getLogger(__name__)

MAX_DATAGRAM_SIZE_BYTES = 64 * 1024
RECEIVE_BUFFER_SIZE_BYTES = 16 << 20
DATAGRAMS_PER_ROUND = 1024
SO_RCVBUFFORCE = 33
# What is still read at the end: all that the kernel may hold.
MAX_DATAGRAMS_AT_END = 100_000
# The same counter as SO_RXQ_OVFL gives with a datagram, but also when no further one comes: the ninth number.
SO_MEMINFO = 55
_MEMINFO = struct.Struct("9I")


class DatagramSource:
    """A UDP socket. While the disk is full nothing is read, and the kernel drops what it cannot hold."""

    def __init__(self, ingest: Ingest, address: str) -> None:
        host, port = parse_address(address)
        self._ingest = ingest
        self._name = address
        self._held: bytes | None = None
        self._drops = 0
        try:
            if host or not socket.has_dualstack_ipv6():
                found = socket.getaddrinfo(
                    plain_host(host) or None, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
                )[0]
                self._socket = socket.socket(found[0], socket.SOCK_DGRAM)
                self._socket.bind(found[4])
            else:
                self._socket = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
                self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                self._socket.bind(("::", port))
        except OSError as error:
            raise UnwritableError(
                f"cannot listen on {address}: {error.strerror or error}"
            ) from None
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_SIZE_BYTES)
        with contextlib.suppress(
            PermissionError
        ):  # beyond net.core.rmem_max, for the administrator
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_SIZE_BYTES)
        ingest.loop.add(self._socket.fileno(), READABLE, self._on_readable)
        log.info("listening on %s (UDP)", self._socket.getsockname())

    def _on_readable(self, _events: int) -> None:
        for _ in range(DATAGRAMS_PER_ROUND):
            datagram = self._receive()
            if datagram is None:
                break
            if not self._ingest.store_entry(datagram, None, self._name):
                self._held = datagram
                self._ingest.loop.remove(self._socket.fileno())
                self._ingest.wait_for_space(self, self._retry)
                return
        self._count_drops()

    def _receive(self) -> bytes | None:
        while True:
            try:
                return self._socket.recv(MAX_DATAGRAM_SIZE_BYTES)
            except BlockingIOError:
                return None
            except OSError as error:
                log.info("%s: %s", self._name, error.strerror)

    def _retry(self) -> None:
        if self._held is None:
            return
        if self._ingest.store_entry(self._held, None, self._name):
            self._held = None
            self._ingest.loop.add(self._socket.fileno(), READABLE, self._on_readable)
        else:
            self._ingest.wait_for_space(self, self._retry)

    def _count_drops(self) -> None:
        memory = self._socket.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, _MEMINFO.size)
        drops = _MEMINFO.unpack(memory)[8]
        new = (drops - self._drops) & 0xFFFFFFFF
        if new:
            self._drops = drops
            self._ingest.lost += new
            log.warning("%s: the kernel dropped %d datagrams", self._name, new)

    def stop(self) -> None:
        """Store, or count, what has come, and read no more."""
        self._ingest.loop.remove(self._socket.fileno())
        datagram = self._receive() if self._held is None else self._held
        for _ in range(MAX_DATAGRAMS_AT_END):
            if datagram is None:
                break
            if not self._ingest.store_entry(datagram, None, self._name):
                self._ingest.lost += 1
            datagram = self._receive()
        self._held = None
        self._count_drops()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
