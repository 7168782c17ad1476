"""Every error Kifa raises, each with the exit code its command ends with.

The message of an error is one line: what happened, where, and what to do.
"""

from __future__ import annotations

import enum

from kifa._typing import ClassVar, NamedTuple


class ExitCode(enum.IntEnum):
    """Exit codes of every ``kifa`` command. Documented in README.md; a test compares the two."""

    OK = 0
    FAILURE = 1  # anything that has no code of its own
    USAGE = 2  # wrong option, argument, time, LSN range or configuration
    NOT_A_STORE = 3  # the path holds no store, or cannot be read
    DAMAGED = 4  # damage was found; everything undamaged was served
    LOCKED = 5  # another process writes to the store
    SYNC_FAILED = 6  # a sync failed: nothing after it was confirmed; start again to recover
    NO_SPACE = 7  # the disk is full
    REFUSED = 8  # some lines were refused or lost by a source; the rest is stored
    UNWRITABLE = 9  # the directory or the output cannot be created or written
    INTERRUPTED = 130  # SIGINT: everything read was stored first
    TERMINATED = 143  # SIGTERM: everything read was stored first


class Damage(NamedTuple):
    """A range of the log that is lost or unreadable, and why.

    ``first_lsn`` and ``last_lsn`` are inclusive; both are None where no entry is affected (a
    damaged copy of a header, say). ``file`` is relative to the store, ``offset`` in bytes.
    """

    kind: str  # "corruption", "gap", "missing file", "truncated file", "torn tail"
    file: str | None
    offset: int | None
    first_lsn: int | None
    last_lsn: int | None
    reason: str

    @property
    def costs_entries(self) -> bool:
        """Whether confirmed entries were lost (a torn tail holds none, by definition)."""
        return self.first_lsn is not None and self.kind != "torn tail"

    def __str__(self) -> str:
        where = self.file or "the log"
        if self.offset is not None:
            where += f" at byte {self.offset}"
        if self.first_lsn is None:
            return f"{self.kind} in {where}: {self.reason}; no entry is affected"
        last = self.last_lsn if self.last_lsn is not None else "?"
        lsns = (
            f"LSN {self.first_lsn}"
            if self.first_lsn == last
            else f"LSNs {self.first_lsn} to {last}"
        )
        return f"{self.kind} in {where}: {self.reason} ({lsns})"


class KifaError(Exception):
    """The root of all errors that Kifa raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILURE

    def __init__(
        self,
        message: str,
        *,
        file: str | None = None,
        offset: int | None = None,
        lsn: int | None = None,
    ) -> None:
        super().__init__(message)
        self.file = file
        self.offset = offset
        self.lsn = lsn


class UsageError(KifaError):
    """A wrong argument: a time, an LSN range, an option."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """A wrong value in a layer of the configuration; names layer, key and value."""


class NotAStoreError(KifaError):
    """The path holds no store."""

    exit_code = ExitCode.NOT_A_STORE


class DamagedError(KifaError):
    """Damage was found. ``damage`` lists it; everything else was served before this was raised."""

    exit_code = ExitCode.DAMAGED

    def __init__(self, message: str, damage: list[Damage]) -> None:
        first = damage[0] if damage else None
        super().__init__(
            message,
            file=first.file if first else None,
            offset=first.offset if first else None,
            lsn=first.first_lsn if first else None,
        )
        self.damage = damage


class LockedError(KifaError):
    """Another writer holds the store."""

    exit_code = ExitCode.LOCKED


class PoisonedError(KifaError):
    """A sync of the log failed: nothing after it is confirmed, and the writer takes no more."""

    exit_code = ExitCode.SYNC_FAILED


class NoSpaceError(KifaError):
    """No space: the entry was not accepted and used no LSN. Appending works again once there is."""

    exit_code = ExitCode.NO_SPACE


class UnwritableError(KifaError):
    """The store's directory, or an output, cannot be created or written."""

    exit_code = ExitCode.UNWRITABLE


def standard_output_error(error: OSError) -> KifaError:
    """Return what a command raises that cannot write its output."""
    return KifaError(f"standard output cannot be written: {error.strerror}")


class EntryTooLargeError(KifaError):
    """The data of an entry is larger than 1 MiB."""

    exit_code = ExitCode.REFUSED


class EntryRefusedError(KifaError):
    """The daemon refused a line. ``lsns`` are those of the lines sent with it, None for what was refused."""

    exit_code = ExitCode.REFUSED

    def __init__(self, reason: str, lsns: list[int | None]) -> None:
        super().__init__(f"the daemon refused the entry: {reason}")
        self.lsns = lsns


class ConnectionLostError(KifaError, ConnectionError):
    """The connection to the daemon broke before every answer came; connect again.

    ``lsns`` has the answers that did come, None for what was refused. The ``unknown`` entries behind them may be
    stored or not, the first of those not stored perhaps in part; what came after was not sent.
    """

    def __init__(self, reason: str, lsns: list[int | None], unknown: int) -> None:
        super().__init__(f"connection lost: {reason}; {unknown} sent without an answer")
        self.lsns = lsns
        self.unknown = unknown


class ClosedError(KifaError):
    """The log, or the connection, was closed."""


class ForkedError(KifaError):
    """The log, or the connection, belongs to the parent process; a forked child must open its own."""
