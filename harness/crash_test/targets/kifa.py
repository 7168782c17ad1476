"""Kifa, as its users have it: by its command, and in a program of their own."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.crash_test.results import Stage
from harness.crash_test.settings import SOURCES, THREADS_SOURCE
from harness.crash_test.targets import Inputs, UnreadableError
from harness.decoder import NotAStoreError, decode
from harness.oracle import Entry, FlushMode

# Small, so that a short feed rotates, flushes and compacts.
SMALL = ("--segment-size-mib", "1", "--memtable-threshold-mib", "1", "--compaction-threshold", "2")
READ_DEADLINE_S = 120.0
DAMAGED = 4  # the exit code of a reader that has shown all that is undamaged

_CHANGES = ("create", "write", "fsync", "rename")
REQUESTS = {
    Stage.APPEND: [("write", "wal/*.wal", 60)],
    Stage.SYNC: [("fdatasync", "wal/*.wal", 60)],
    Stage.ROTATE: [
        *((op, "wal/*.tmp", 2) for op in (*_CHANGES, "fallocate")),
        *((op, "wal/*.spare", 2) for op in ("write", "fsync", "rename")),
        ("fsyncdir", "wal", 3),
    ],
    Stage.FLUSH: [
        *((op, "sst/flush*", 2) for op in _CHANGES),
        *((op, "manifest*", 3) for op in _CHANGES),
        ("fsyncdir", "sst", 2),
    ],
    Stage.COMPACT: [*((op, "sst/compaction*", 1) for op in _CHANGES), ("unlink", "sst/*", 2)],
    Stage.RECOVER: [
        ("write", "*", 6),
        ("fsync", "*", 6),
        ("fdatasync", "*", 2),
        ("rename", "*", 4),
        ("create", "*", 3),
        ("unlink", "*", 2),
        ("fsyncdir", "*", 5),
    ],
}


class KifaTarget:
    """``kifa daemon``, ``kifa query`` and the second decoder."""

    sources: Sequence[str] = SOURCES
    requests = REQUESTS
    reader_codes = (0, DAMAGED)
    end_code = 143
    is_tampered = False

    def __init__(self, name: str, kifa_bin: str, flush_mode: FlushMode) -> None:
        self.name = name
        self._bin = kifa_bin
        self._flush_mode = flush_mode

    def command(self, store: Path, inputs: Inputs) -> list[str]:
        words = [self._bin, "daemon", "-d", str(store), "--ack", "--flush-mode", self._flush_mode]
        words += SMALL
        if inputs.stdin:
            words.append("--stdin")
        if inputs.tcp:
            words += ["--tcp", inputs.tcp]
        if inputs.unix:
            words += ["--unix", str(inputs.unix)]
        if inputs.file:
            words += ["--file", str(inputs.file)]
        return words

    def look_command(self, store: Path, from_lsn: int) -> list[str] | None:
        return [
            self._bin,
            "query",
            "-d",
            str(store),
            "--format",
            "json",
            "--from-lsn",
            str(from_lsn),
        ]

    def parse(self, line: bytes) -> Entry:
        fields = json.loads(line)
        data = fields["data"].encode() if "data" in fields else base64.b64decode(fields["data_b64"])
        return Entry(fields["lsn"], data, fields["timestamp_ms"])

    def read(self, store: Path) -> list[Entry]:
        if not store.exists():
            return []
        command = self.look_command(store, 1)
        assert command is not None
        result = subprocess.run(command, capture_output=True, timeout=READ_DEADLINE_S, check=False)
        if result.returncode not in self.reader_codes:
            message = result.stderr.decode(errors="replace").strip()
            raise UnreadableError(f"kifa query ends with {result.returncode}: {message}")
        return [self.parse(line) for line in result.stdout.splitlines()]

    def read_again(self, store: Path) -> list[Entry]:
        if not store.exists():
            return []
        try:
            decoded = decode(store)
        except (NotAStoreError, OSError) as error:
            raise UnreadableError(str(error)) from None
        return [Entry(entry.lsn, entry.data, entry.timestamp_ms) for entry in decoded.entries]


class EmbeddedKifaTarget(KifaTarget):
    """A program that has Kifa in it, with a thread for each connection; it tells what ``append`` has accepted."""

    sources = (THREADS_SOURCE,)

    def __init__(
        self, name: str, kifa_bin: str, flush_mode: FlushMode, policy: str = "log"
    ) -> None:
        super().__init__(name, kifa_bin, flush_mode)
        self._policy = policy

    def command(self, store: Path, inputs: Inputs) -> list[str]:
        assert inputs.unix is not None
        program = [sys.executable, "-m", "harness.crash_test.programs.embedding"]
        return [*program, str(store), str(inputs.unix), self._flush_mode, self._policy]


class HoardingKifaTarget(EmbeddedKifaTarget):
    """The same, and it says that lines are accepted some time before it appends them."""

    def __init__(self, name: str, kifa_bin: str, flush_mode: FlushMode) -> None:
        super().__init__(name, kifa_bin, flush_mode, "hoard")


class TamperedKifaTarget(KifaTarget):
    """Kifa, and somebody alters bytes of its store while it is at rest."""

    is_tampered = True


class DroppingKifaTarget(KifaTarget):
    """Kifa, judged with a decoder that drops an entry."""

    def read_again(self, store: Path) -> list[Entry]:
        return super().read_again(store)[:-1]
