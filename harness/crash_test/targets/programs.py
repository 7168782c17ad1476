"""Targets beside Kifa: plain files and SQLite, good and bad."""

from __future__ import annotations

import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.crash_test.plan import Requests
from harness.crash_test.programs import plain_file, sqlite
from harness.crash_test.results import Stage
from harness.crash_test.targets import Inputs, UnreadableError
from harness.oracle import Entry

PYTHON = (sys.executable, "-m")
TERMINATED = -15

_PLAIN_FILE_REQUESTS: Requests = {
    Stage.APPEND: [("write", plain_file.FILE_NAME, 30)],
    Stage.SYNC: [("fdatasync", plain_file.FILE_NAME, 30)],
}
_SQLITE_REQUESTS: Requests = {
    Stage.APPEND: [("write", f"{sqlite.FILE_NAME}-wal", 60)],
    Stage.SYNC: [("fdatasync", f"{sqlite.FILE_NAME}-wal", 30)],
    Stage.FLUSH: [("write", sqlite.FILE_NAME, 3), ("fdatasync", sqlite.FILE_NAME, 1)],
}


class ProgramTarget:
    """A program of `harness.crash_test.programs`."""

    sources: Sequence[str] = ("stdin",)
    reader_codes: Sequence[int] = (0,)
    end_code = TERMINATED
    is_tampered = False

    def __init__(self, name: str, module: str, policy: str, requests: Requests) -> None:
        self.name = name
        self.requests = requests
        self._command = (*PYTHON, f"harness.crash_test.programs.{module}")
        self._policy = policy

    def command(self, store: Path, inputs: Inputs) -> list[str]:
        return [*self._command, str(store), self._policy]

    def look_command(self, store: Path, from_lsn: int) -> list[str] | None:
        return None

    def parse(self, line: bytes) -> Entry:
        raise NotImplementedError("there is no reader that prints lines")

    def read(self, store: Path) -> list[Entry]:
        raise NotImplementedError

    def read_again(self, store: Path) -> list[Entry]:
        """It has only one reader."""
        return self.read(store)


class PlainFileTarget(ProgramTarget):
    """A file with a line for each entry."""

    def __init__(self, name: str, policy: str) -> None:
        super().__init__(name, "plain_file", policy, _PLAIN_FILE_REQUESTS)

    def read(self, store: Path) -> list[Entry]:
        try:
            lines = (store / plain_file.FILE_NAME).read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UnreadableError(f"{error.filename}: {error.strerror}") from None
        entries = []
        for number, line in enumerate(lines, 1):
            lsn, _, rest = line.partition(b" ")
            time_ms, _, data = rest.partition(b" ")
            is_ours = lsn.isdigit() and time_ms.isdigit()
            # What is no line of ours is shown as it is: there is nothing that tells it from one.
            entries.append(Entry(int(lsn), data, int(time_ms)) if is_ours else Entry(number, line))
        return entries


class SqliteTarget(ProgramTarget):
    """A table in a database in WAL mode."""

    def __init__(self, name: str, synchronous: str) -> None:
        super().__init__(name, "sqlite", synchronous, _SQLITE_REQUESTS)

    def read(self, store: Path) -> list[Entry]:
        # A copy: reading recovers, and the store at rest is evidence.
        with tempfile.TemporaryDirectory() as directory:
            for path in store.glob(f"{sqlite.FILE_NAME}*"):
                if not path.name.endswith("-shm"):
                    shutil.copy(path, directory)
            try:
                database = sqlite3.connect(f"{directory}/{sqlite.FILE_NAME}")
                try:
                    rows = database.execute("SELECT lsn, data, time_ms FROM entries ORDER BY lsn")
                    return [Entry(*row) for row in rows]
                finally:
                    database.close()
            except sqlite3.Error as error:
                raise UnreadableError(f"sqlite: {error}") from None
