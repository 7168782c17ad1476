"""The Unix socket of a mount: one JSON object a line in, one answer a line out."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socketserver
import tempfile
import threading
from pathlib import Path

from lazyfs.control import Control
from lazyfs.errors import MountError

MAX_LINE_BYTES = 1 << 20


def default_socket(mount_point: Path) -> Path:
    """Where the socket of a mount is when none was named: found from the mount point alone."""
    digest = hashlib.sha256(os.fsencode(mount_point.absolute())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"lazyfs-{os.getuid()}" / f"{digest}.sock"


class _Handler(socketserver.StreamRequestHandler):
    server: _SocketServer

    def handle(self) -> None:
        while True:
            line = self.rfile.readline(MAX_LINE_BYTES)
            if not line:
                return
            text = line.decode("utf-8", "surrogateescape")
            answer = self.server.control.execute_line(text)
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(answer.encode("utf-8", "surrogateescape") + b"\n")
            if not line.endswith(b"\n"):
                return


class _SocketServer(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, path: Path, control: Control) -> None:
        self.control = control
        super().__init__(str(path), _Handler)


class ControlSocket:
    """Serves the commands of a mount until closed.

    Args:
        path: of the socket; one that a killed process left there is replaced.
        control: carries out the commands.
    Raises:
        MountError: it cannot be bound.
    """

    def __init__(self, path: Path, control: Control) -> None:
        self.path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._server = _SocketServer(path, control)
        except OSError as error:
            raise MountError(f"{path}: cannot bind the control socket: {error}") from None
        self._inode = path.stat().st_ino
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="control", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving and remove the socket, unless another mount has taken its place."""
        self._server.shutdown()
        self._server.server_close()
        with contextlib.suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()
