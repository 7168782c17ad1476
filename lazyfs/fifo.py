"""LazyFS's control: commands from one FIFO, and `finished::clear-cache` on another."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import threading
from pathlib import Path

from lazyfs.control import Control
from lazyfs.errors import CommandError, ConfigError, LazyfsError, MountError
from lazyfs.injection import Crash, Injection, TornOp, TornSeq, install, parts_of
from lazyfs.report import table, unsynced
from lazyfs.server import Server

_log = logging.getLogger(__name__)
_PREFIX = "lazyfs::"
_PLAIN_COMMANDS = (
    "clear-cache",
    "cache-checkpoint",
    "display-cache-usage",
    "unsynced-data-report",
)
_FIELDS = {
    "crash": {"timing", "op", "from_rgx", "to_rgx"},
    "torn-op": {"file", "parts", "parts_bytes", "persist", "occurrence"},
    "torn-seq": {"op", "file", "persist", "occurrence"},
}


def parse_command(line: str) -> str | Injection:
    """One command of the FIFO: its plain name, or the fault it describes.

    Raises:
        CommandError: with what is wrong; nothing is to be changed then.
    """
    if not line.startswith(_PREFIX):
        raise CommandError(f"{line!r}: a command begins with {_PREFIX}")
    name, *fields = line.removeprefix(_PREFIX).split("::")
    if name in _PLAIN_COMMANDS:
        if fields:
            raise CommandError(f"{name}: takes no arguments")
        return name
    if name not in _FIELDS:
        raise CommandError(f"unknown command {name!r}")
    values: dict[str, str] = {}
    for item in fields:
        key, found, value = item.partition("=")
        if not found or key not in _FIELDS[name] or key in values:
            raise CommandError(f"{name}: unexpected {item!r}")
        values[key] = value
    try:
        injection = _injection(name, values)
        injection.check()
    except KeyError as error:
        raise CommandError(f"{name}: {error} is missing") from None
    except (ConfigError, ValueError) as error:
        raise CommandError(f"{name}: {error}") from None
    return injection


def _injection(name: str, values: dict[str, str]) -> Injection:
    if name == "crash":
        return Crash(
            values["timing"], values["op"], values.get("from_rgx", ""), values.get("to_rgx", "")
        )
    occurrence = int(values.get("occurrence", "1"))
    if name == "torn-seq":
        return TornSeq(values["file"], occurrence, values["op"], _numbers(values["persist"]))
    parts = int(values["parts"]) if "parts" in values else None
    sizes = list(_numbers(values["parts_bytes"])) if "parts_bytes" in values else None
    return TornOp(values["file"], occurrence, parts_of(parts, sizes), _numbers(values["persist"]))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


class FifoControl:
    """Reads commands from a FIFO until closed.

    Args:
        path: of the commands; made if it does not exist.
        completed: of the answers to clear-cache, or None.
        control, server: carry out the commands.
    Raises:
        MountError: a path exists and is not a FIFO, or cannot be made.
    """

    def __init__(
        self, path: Path, completed: Path | None, control: Control, server: Server
    ) -> None:
        self._completed = completed
        self._control = control
        self._server = server
        for fifo in (path, completed):
            if fifo is not None:
                _make_fifo(fifo)
        # Open for writing too: a reader alone would see the end whenever a writer goes away.
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="fifo", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._closing = True
        os.write(self._fd, b"\n")
        self._thread.join()
        os.close(self._fd)

    def _run(self) -> None:
        while not self._closing:
            # A write to a FIFO arrives whole, so a command needs no newline at its end.
            for line in os.read(self._fd, 65536).split(b"\n"):
                text = line.decode("utf-8", "replace").strip()
                if text:
                    self._carry_out(text)

    def _carry_out(self, line: str) -> None:
        try:
            command = parse_command(line)
            with self._server.lock:
                self._act(command)
        except LazyfsError as error:
            _log.error("fifo: %s", error)
            return
        if command == "clear-cache":
            self._complete("finished::clear-cache\n")

    def _act(self, command: str | Injection) -> None:
        if not isinstance(command, str):
            install(command, self._server)
        elif command == "clear-cache":
            _log.warning("fifo: clear-cache: %s", self._control.cut(keep_handles=True))
        elif command == "cache-checkpoint":
            self._server.disk.sync_all()
        elif command == "display-cache-usage":
            pages = sum(len(inode.view.pages) for inode in self._server.disk.dirty.values())
            _log.warning("fifo: %d pages of 4096 bytes are not synced", pages)
        else:
            _log.warning("fifo: un-synced data\n%s", table(unsynced(self._server.disk)))

    def _complete(self, line: str) -> None:
        if self._completed is None:
            return
        # Waits for a reader, as LazyFS does; a reader that went away again is none.
        with contextlib.suppress(BrokenPipeError):
            fd = os.open(self._completed, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, line.encode())
            finally:
                os.close(fd)


def _make_fifo(path: Path) -> None:
    try:
        os.mkfifo(path)
    except FileExistsError:
        if not stat.S_ISFIFO(path.stat().st_mode):
            raise MountError(f"{path}: exists and is not a FIFO") from None
    except OSError as error:
        raise MountError(f"{path}: cannot make the FIFO: {error.strerror}") from None
