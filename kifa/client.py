"""A client of the daemon for applications: every line sent is answered when it is durable.

with kifa.connect("127.0.0.1:5514") as client:
    lsn = client.send(b"receipt 17")
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from kifa.config import parse_address
from kifa.errors import EntryRefusedError, UsageError

MAX_UNANSWERED = 1024
DEFAULT_TIMEOUT_SECONDS = 30.0


class Client:
    """One connection to a daemon that runs with ``--ack``. Not for several threads at once."""

    def __init__(self, address: str, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS) -> None:
        """Connect to ``host:port`` or the path of a Unix socket.

        Raises:
            OSError: nobody listens there; TimeoutError from any method where an answer takes longer.
        """
        if "/" in address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.settimeout(timeout_seconds)
            self._socket.connect(address)
        else:
            try:
                target = parse_address(address)
            except ValueError as error:
                raise UsageError(str(error)) from None
            self._socket = socket.create_connection(target, timeout_seconds)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers = self._socket.makefile("rb")

    def send(self, data: bytes) -> int:
        """Send one line and return its LSN: it is durable.

        Raises:
            UsageError: ``data`` contains a line end, or ends with a carriage return, which the daemon would take off.
            EntryRefusedError: the daemon refused it, and says why.
            OSError: the connection broke; whether the line is stored is not known.
        """
        return self.send_many([data])[0]

    def send_many(self, items: Iterable[bytes]) -> list[int]:
        """Send many lines without waiting for each, and return their LSNs: all are durable. Raises as `send`.

        After EntryRefusedError the other lines that were sent are stored; ``lsns`` of the error has their LSNs, None
        for what was refused.
        """
        lines = [_line(data) for data in items]
        lsns: list[int | None] = []
        refused = ""
        for start in range(0, len(lines), MAX_UNANSWERED):
            part = lines[start : start + MAX_UNANSWERED]
            self._socket.sendall(b"".join(part))
            for _ in part:
                answer = self._answers.readline()
                if answer.startswith(b"ACK "):
                    lsns.append(int(answer[4:]))
                elif answer.startswith(b"ERR "):
                    lsns.append(None)
                    refused = refused or answer[4:].decode("utf-8", "replace").strip()
                else:
                    raise ConnectionError("the daemon closed the connection before its answer")
        if refused:
            raise EntryRefusedError(refused, lsns)
        return [lsn for lsn in lsns if lsn is not None]

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._answers.close()
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


def _line(data: bytes) -> bytes:
    if b"\n" in data or data.endswith(b"\r"):
        raise UsageError("an entry sent as a line must not contain a line end")
    return bytes(data) + b"\n"
