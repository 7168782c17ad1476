"""The standard library's logging into Kifa: a record is durable when the call that logged it returns.

handler = KifaHandler(path="/var/lib/shop")           # a log of this process, or
handler = KifaHandler(address="127.0.0.1:5514")       # a daemon that runs with --ack
logging.getLogger("shop").addHandler(handler)
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Any

from kifa.client import Client
from kifa.engine import Log
from kifa.errors import ClosedError, ForkedError, UsageError


class KifaHandler(logging.Handler):
    """Logs each record as one entry, and fails loudly: whoever logs gets the exception, unless told otherwise.

    Threads share syncs. In a forked child, a handler with an address connects anew; one with a log raises ForkedError.
    To a daemon that frames by newline, line ends in a record go as the two characters ``\\n`` (``\\r``); a log, and a
    daemon that counts octets, get them as they are. Records of Kifa's own loggers do not go into a log of this
    process: writing them could wait for what wrote them.
    """

    def __init__(
        self,
        *,
        path: str | os.PathLike[str] | None = None,
        address: str | None = None,
        log: Log | None = None,
        raises: bool = True,
        level: int | str = logging.NOTSET,
        **settings: Any,
    ) -> None:
        """Log to one of a directory, a daemon, or an open log, which stays open.

        Args:
            path: directory of a log that this handler opens, and closes.
            address: ``host:port`` or the path of a Unix socket.
            raises: whether a failure is raised where the record was logged; else it is printed to standard error.
            settings: of `kifa.open` for a path, of `kifa.connect` for an address.

        Raises:
            UsageError: not exactly one of the three is given.
            OSError, KifaError: it cannot be opened, or not be connected to.
        """
        if sum(target is not None for target in (path, address, log)) != 1:
            raise UsageError("give one of path, address and log")
        self._address = address or ""
        super().__init__(level)
        self._raises = raises
        self._owned = Log(path, **settings) if path is not None else None
        self._log = self._owned or log
        self._settings = settings
        self._client: Client | None = None
        self._process_id = -1
        self._closed = False
        if address is not None:
            self._connected()

    def createLock(self) -> None:
        """Have a lock only where records share a connection: threads that share a sync must not wait for each other."""
        if self._address:
            super().createLock()
        else:
            self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record; it is durable on return (but in normal mode)."""
        try:
            if self._log is None:
                self._send(self.format(record))
            elif record.name.partition(".")[0] != "kifa":
                self._log.append(self.format(record).encode("utf-8", "backslashreplace"))
        except Exception:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Raise what was caught while a record was logged, whatever ``logging.raiseExceptions`` says."""
        if self._raises:
            raise
        super().handleError(record)

    def _send(self, text: str) -> None:
        if self._settings.get("framing", "newline") == "newline":
            text = text.replace("\r", "\\r").replace("\n", "\\n")
        self._connected().send(text.encode("utf-8", "backslashreplace"))

    def _connected(self) -> Client:
        """Return a connection of this process that stands, as far as can be known before something is sent."""
        if self._closed:
            raise ClosedError("the handler is closed")
        client = self._client
        if client is None or self._process_id != os.getpid() or not client.is_connected:
            if client is not None:
                client.close()
            client = self._client = Client(self._address, **self._settings)
            self._process_id = os.getpid()
        return client

    def flush(self) -> None:
        """Return when every record so far is durable."""
        if self._log is not None:
            with contextlib.suppress(ClosedError, ForkedError):  # its owner did, or will
                self._log.sync()

    def close(self) -> None:
        """Close what this handler opened. Idempotent."""
        self._closed = True
        with contextlib.ExitStack() as stack:
            stack.callback(super().close)
            if self._client is not None:
                stack.callback(self._client.close)
            if self._owned is not None:
                stack.callback(self._owned.close)
