"""A reader that looks at a store while the target writes to it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence

from harness.crash_test.processes import Child
from harness.oracle import Entry


class Look:
    """One run of a reader; what it shows, it promises."""

    def __init__(self, command: Sequence[str], parse: Callable[[bytes], Entry]) -> None:
        self._child = Child(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self._child.process.stdout is not None
        self.fd = self._child.process.stdout.fileno()
        os.set_blocking(self.fd, False)
        self._parse = parse
        self._rest = b""
        self.entries: list[Entry] = []
        self.exit_code: int | None = None
        self.errors = ""

    def receive(self) -> bool:
        """Read what it has shown; return whether it has ended."""
        try:
            while chunk := os.read(self.fd, 1 << 18):
                self._rest += chunk
        except BlockingIOError:
            self._take_lines()
            return False
        self._take_lines()
        self._end()
        return True

    def _take_lines(self) -> None:
        *lines, self._rest = self._rest.split(b"\n")
        self.entries += [self._parse(line) for line in lines]

    def _end(self) -> None:
        stream = self._child.process.stderr
        assert stream is not None
        self.errors = stream.read().decode(errors="replace").strip()
        self.exit_code = self._child.wait()
        self._child.close()

    def wait(self) -> list[Entry]:
        """Wait for its end and return what it showed."""
        os.set_blocking(self.fd, True)
        while not self.receive():
            pass
        return self.entries

    def close(self) -> None:
        """End it. Idempotent."""
        self._child.close()
