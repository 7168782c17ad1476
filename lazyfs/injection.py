"""LazyFS's faults: crash at an operation, and writes of which only parts are kept.

As in LazyFS, the process that serves the mount kills itself when such a fault strikes; the mount
is then stale, and the directory below holds what survived.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
from dataclasses import dataclass, field

from lazyfs.content import apply_to_base
from lazyfs.describe import OP_NAMES
from lazyfs.errors import ConfigError
from lazyfs.faults import Event, Faults, Hook
from lazyfs.inode import Inode
from lazyfs.ops import Write
from lazyfs.server import Server

# LazyFS's names of operations where they differ from ours.
_ALIASES = {"fsync": "f*sync"}


@dataclass(frozen=True)
class Crash:
    """Drop what is not synced before or after the n-th matching operation, and crash.

    Attributes:
        timing: before or after.
        op: of which operation.
        from_rgx, to_rgx: regular expressions for its path and, for rename and link, the new one.
        occurrence: the n-th, from 1.
        crash: the process kills itself; otherwise only un-synced data is dropped.
    """

    timing: str
    op: str
    from_rgx: str = ""
    to_rgx: str = ""
    occurrence: int = 1
    crash: bool = True

    def check(self) -> None:
        """Raise ConfigError if it makes no sense."""
        if self.timing not in ("before", "after"):
            raise ConfigError(f"timing: {self.timing!r}; before or after")
        _check_op(self.op)
        _check_occurrence(self.occurrence)
        if not self.from_rgx and not self.to_rgx:
            raise ConfigError("from_rgx or to_rgx is needed")
        for pattern in (self.from_rgx, self.to_rgx):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"{pattern!r}: {error}") from None


@dataclass(frozen=True)
class TornOp:
    """Of the n-th write to a file only some parts reach the disk; then it crashes.

    Attributes:
        file: path or end of the path.
        occurrence: the n-th, from 1.
        parts: how many equal parts (one number), or the size of each in bytes.
        persist: the parts that are kept, from 1.
    """

    file: str
    occurrence: int
    parts: tuple[int, ...]
    persist: tuple[int, ...]

    def check(self) -> None:
        """Raise ConfigError if it makes no sense."""
        _check_occurrence(self.occurrence)
        count = self.parts[0] if len(self.parts) == 1 else len(self.parts)
        _check_persist(self.persist, count)


@dataclass(frozen=True)
class TornSeq:
    """Of the n-th run of writes to a file only some reach the disk; then it crashes.

    A run is a sequence of writes to the file with no other operation on it in between; the fault
    strikes at the write of that run with the highest number to be kept.
    """

    file: str
    occurrence: int
    op: str
    persist: tuple[int, ...]

    def check(self) -> None:
        """Raise ConfigError if it makes no sense."""
        _check_occurrence(self.occurrence)
        if self.op != "write":
            raise ConfigError(f"op: {self.op!r}; torn-seq knows only write")
        _check_persist(self.persist, None)


Injection = Crash | TornOp | TornSeq


def parts_of(parts: object, sizes: object) -> tuple[int, ...]:
    """The `parts` of a `TornOp` from a number or a list. Raises ConfigError."""
    if (parts is None) == (sizes is None):
        raise ConfigError("either parts or parts_bytes is needed")
    if isinstance(parts, int) and parts > 0:
        return (parts,)
    if (
        isinstance(sizes, list)
        and len(sizes) > 1
        and all(isinstance(size, int) and size > 0 for size in sizes)
    ):
        return tuple(sizes)
    raise ConfigError("parts: a number from 1; parts_bytes: at least two sizes in bytes")


def install(injection: Injection, server: Server) -> None:
    """Let a fault strike when its time comes."""
    if isinstance(injection, Crash):
        server.faults.add(_CrashHook.of(injection, server))
    elif isinstance(injection, TornOp):
        server.faults.add(_TornOpHook.of(injection))
    else:
        _SequenceWatcher(injection, server.faults)


def crash_now() -> None:
    """End this process as a crash does: no clean-up, the mount stays and is stale."""
    os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class _CrashHook(Hook):
    from_rgx: str = ""
    to_rgx: str = ""

    @classmethod
    def of(cls, crash: Crash, server: Server) -> _CrashHook:
        def strike(event: Event) -> None:
            server.power_loss(keep_handles=True)
            if crash.crash:
                crash_now()

        return cls(
            _ALIASES.get(crash.op, crash.op),
            nth=crash.occurrence,
            before=crash.timing == "before",
            action=strike,
            from_rgx=crash.from_rgx,
            to_rgx=crash.to_rgx,
        )

    def hit(self, event: Event) -> bool:
        if self.from_rgx and not re.search(self.from_rgx, "/" + event.path):
            return False
        if self.to_rgx and not re.search(self.to_rgx, "/" + event.to_path):
            return False
        return super().hit(event)


@dataclass
class _TornOpHook(Hook):
    file: str = ""

    @classmethod
    def of(cls, torn: TornOp) -> _TornOpHook:
        def strike(event: Event) -> None:
            offset = int(event.details["offset"])
            pieces = _split(offset, event.data, torn.parts)
            _persist(event.inode, [pieces[n - 1] for n in torn.persist if n <= len(pieces)])
            crash_now()

        return cls("write", nth=torn.occurrence, action=strike, file=torn.file)

    def hit(self, event: Event) -> bool:
        return _same_file(self.file, event.path) and super().hit(event)


@dataclass
class _SequenceWatcher:
    """Sees every operation; a `Hook` sees only those that it names."""

    torn: TornSeq
    faults: Faults
    runs: int = 0
    current: list[Write] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.faults.watchers.append(self.watch)

    def watch(self, event: Event, error: OSError | None) -> None:
        if not _same_file(self.torn.file, event.path) or event.op in ("read", "open", "create"):
            return
        if event.op == "write":
            self.current.append(Write(int(event.details["offset"]), event.data))
            if self.runs == self.torn.occurrence - 1 and len(self.current) >= max(
                self.torn.persist
            ):
                _persist(event.inode, [self.current[n - 1] for n in sorted(self.torn.persist)])
                crash_now()
        elif self.current:
            self.runs += 1
            self.current.clear()


def _persist(inode: Inode, writes: list[Write]) -> None:
    if inode.base is not None:
        for write in writes:
            apply_to_base(inode.base, write)


def _split(offset: int, data: bytes, parts: tuple[int, ...]) -> list[Write]:
    if len(parts) == 1:
        size = -(-len(data) // parts[0])
        bounds = [min(index * size, len(data)) for index in range(parts[0] + 1)]
    else:
        bounds = [0]
        for size in parts:
            bounds.append(min(bounds[-1] + size, len(data)))
    return [Write(offset + start, data[start:stop]) for start, stop in itertools.pairwise(bounds)]


def _same_file(file: str, path: str) -> bool:
    full = "/" + path
    return full == file or full.endswith("/" + file.lstrip("/"))


def _check_op(op: str) -> None:
    if op not in OP_NAMES:
        raise ConfigError(f"op: unknown operation {op!r}; known are {', '.join(sorted(OP_NAMES))}")


def _check_occurrence(occurrence: object) -> None:
    if not isinstance(occurrence, int) or occurrence < 1:
        raise ConfigError("occurrence: a number from 1")


def _check_persist(persist: tuple[int, ...], count: int | None) -> None:
    good = all(isinstance(n, int) and n >= 1 and (count is None or n <= count) for n in persist)
    if not persist or not good:
        raise ConfigError("persist: numbers of the parts to keep, from 1")
