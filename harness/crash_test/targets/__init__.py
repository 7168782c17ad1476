"""What is tested: programs that store lines and acknowledge them, good ones and bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.crash_test.plan import Requests
from harness.oracle import Entry


class UnreadableError(Exception):
    """A store cannot be read; the message is that of its reader."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """How lines reach a target: from its standard input, or one of these."""

    stdin: bool = False
    tcp: str | None = None
    unix: Path | None = None
    file: Path | None = None


class Target(Protocol):
    """A program under test. It is ready when it says so to ``$NOTIFY_SOCKET``, and answers ``ACK <lsn>`` or ``ERR``."""

    @property
    def name(self) -> str: ...

    @property
    def sources(self) -> Sequence[str]: ...

    @property
    def requests(self) -> Requests:
        """What it asks of the file system in each stage of its life; see `harness.crash_test.plan`."""

    @property
    def reader_codes(self) -> Sequence[int]:
        """What its reader ends with after it has shown all that is there."""

    @property
    def end_code(self) -> int:
        """What it ends with after SIGTERM."""

    @property
    def is_tampered(self) -> bool:
        """Whether bytes of its store are altered behind its back, and behind the judge's."""

    def command(self, store: Path, inputs: Inputs) -> list[str]:
        """Return what starts it."""

    def look_command(self, store: Path, from_lsn: int) -> list[str] | None:
        """Return what prints the entries of a store that is in use, a line each; None if there is no such reader."""

    def parse(self, line: bytes) -> Entry:
        """Return the entry that a line of `look_command` shows."""

    def read(self, store: Path) -> list[Entry]:
        """Read a store at rest, as its users do.

        Raises:
            UnreadableError: it cannot be read.
        """

    def read_again(self, store: Path) -> list[Entry]:
        """Read a store at rest, in a way that shares no code with the first.

        Raises:
            UnreadableError: it cannot be read.
        """
