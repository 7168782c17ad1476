"""Python clients for both forms of control: the Unix socket and LazyFS's FIFOs."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from lazyfs.control_socket import default_socket
from lazyfs.errors import CommandError, MountError


class Client:
    """Sends commands to the control socket of a mount.

    Args:
        mount_point: of the mount; its socket is found from it.
        socket_path: of the socket, if another one was chosen.
        timeout_s: for one command.
    Raises:
        MountError: nobody listens there.
    """

    def __init__(
        self,
        mount_point: Path | None = None,
        socket_path: Path | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        if socket_path is None:
            if mount_point is None:
                raise MountError("a mount point or a socket is needed")
            socket_path = default_socket(mount_point)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(socket_path))
        except OSError as error:
            self._socket.close()
            raise MountError(
                f"{mount_point or socket_path}: no lazyfs answers there ({error.strerror})"
            ) from None
        self._file = self._socket.makefile("rw", encoding="utf-8", errors="surrogateescape")

    def command(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """Send a command and wait for its answer.

        Args:
            name: such as "power-loss"; see docs/LAZYFS.md for all.
            arguments: of the command.
        Raises:
            CommandError: the command was refused, with the reason; nothing was changed.
            MountError: the mount's process is gone.
        """
        try:
            self._file.write(json.dumps({"cmd": name, **arguments}) + "\n")
            self._file.flush()
            line = self._file.readline()
        except OSError as error:
            raise MountError(f"the mount's process does not answer: {error}") from None
        if not line:
            raise MountError("the mount's process ended")
        answer: dict[str, Any] = json.loads(line)
        if not answer.pop("ok"):
            raise CommandError(answer["error"])
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class FifoClient:
    """Sends LazyFS's commands, to this or to the original LazyFS.

    Args:
        fifo: `fifo_path` of the configuration.
        completed: `fifo_path_completed`, or None.
    """

    def __init__(self, fifo: Path, completed: Path | None = None) -> None:
        self._fifo = fifo
        self._completed = completed

    def send(self, command: str) -> None:
        """Send one command, such as "lazyfs::cache-checkpoint"; there is no answer.

        Raises:
            MountError: nobody reads the FIFO.
        """
        try:
            fd = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise MountError(f"{self._fifo}: nobody reads there ({error.strerror})") from None
        try:
            os.write(fd, command.encode() + b"\n")
        finally:
            os.close(fd)

    def clear_cache(self, timeout_s: float = 10.0) -> None:
        """Drop what is not synced, and wait until that is done if there is a completed FIFO.

        Raises:
            MountError: nobody reads the FIFO, or there was no answer in time.
        """
        if self._completed is None:
            self.send("lazyfs::clear-cache")
            return
        fd = os.open(self._completed, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            self.send("lazyfs::clear-cache")
            self._await(fd, b"finished::clear-cache", time.monotonic() + timeout_s)
        finally:
            os.close(fd)

    def _await(self, fd: int, wanted: bytes, deadline: float) -> None:
        received = b""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while wanted not in received:
            left_ms = (deadline - time.monotonic()) * 1000
            if left_ms <= 0 or not poll.poll(left_ms):
                raise MountError(f"{self._completed}: no answer to clear-cache in time")
            received += os.read(fd, 4096)
