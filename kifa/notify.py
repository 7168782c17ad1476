"""Tells systemd how the daemon is: the protocol of sd_notify(3), a datagram to ``$NOTIFY_SOCKET``."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)


class Notifier:
    """Sends states to the service manager; does nothing where there is none."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket: socket.socket | None = None
        address = environment.get("NOTIFY_SOCKET")
        if address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                self._socket.connect("\0" + address[1:] if address.startswith("@") else address)
            except OSError as error:
                log.warning("NOTIFY_SOCKET %s: %s", address, error.strerror)
        owner = environment.get("WATCHDOG_PID")
        interval = environment.get("WATCHDOG_USEC", "")
        is_mine = owner is None or owner == str(os.getpid())
        self.watchdog_seconds = int(interval) / 1e6 if interval.isdigit() and is_mine else 0.0
        """How long the manager waits for a sign of life; 0 if it does not."""

    def send(self, *states: str) -> None:
        """Send states such as ``READY=1`` and ``STATUS=...``."""
        if self._socket is not None:
            # A service manager that is starting again must not end the daemon.
            with contextlib.suppress(OSError):
                self._socket.send("\n".join(states).encode())
