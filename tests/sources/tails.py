"""A daemon that follows files, for tests."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Self

from tests.daemons import DEADLINE_SECONDS, data_of, start, wait_for


class Tail:
    """A directory of files, and a daemon that follows some."""

    def __init__(self, directory: Path, *options: object) -> None:
        self.directory = directory
        self.store = directory / "store"
        self.path = directory / "app.log"
        self.errors = directory / "errors"
        self.options = options or ("--file", self.path)
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        with self.errors.open("ab") as errors:
            self.process = start(
                self.store,
                *self.options,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
            )

    def kill(self, number: int = signal.SIGKILL) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(DEADLINE_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code

    def restart(self) -> None:
        self.kill()
        self.start()

    def append(self, *lines: bytes, path: Path | None = None) -> None:
        with (path or self.path).open("ab") as file:
            file.write(b"".join(line + b"\n" for line in lines))

    def lines(self) -> list[bytes]:
        if not (self.store / "wal").exists():
            return []
        return data_of(self.store)

    def expect(self, *lines: bytes) -> None:
        """Wait until exactly these lines are stored."""
        try:
            wait_for(lambda: len(self.lines()) >= len(lines))
        finally:
            found = self.lines()
            assert found == list(lines), self.errors.read_text()

    def logged(self, text: str) -> None:
        """Wait until the daemon logged ``text``."""
        wait_for(lambda: text in self.errors.read_text(), lambda: self.errors.read_text())
