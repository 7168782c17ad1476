"""What goes wrong on purpose: failing, slow and fatal operations, and who wants to know of all.

Rules are matched against the name and the path of each operation, in the order in which they were
added. The caller holds the server's lock, except for `delay_s` and `wait`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from lazyfs.errors import CommandError
from lazyfs.inode import Inode

AFTERMATHS = ("kept", "dropped", "reverted")
SYNC_OPS = ("fsync", "fdatasync", "fsyncdir")


@dataclass(frozen=True)
class Event:
    """One operation of a program.

    Attributes:
        op: its name, such as "write" or "fdatasync".
        path, to_path: relative to the mount, without a leading slash; "" for an unlinked file.
        pid: of the program.
        inode: the file, or the directory whose names change.
        details: its numbers, for traces.
        data: what a write writes.
    """

    op: str
    path: str
    to_path: str
    pid: int
    inode: Inode
    details: dict[str, int | str]
    data: bytes


@dataclass
class Rule:
    """When something happens: at the `nth` match of an operation and a path, once or from then on.

    Attributes:
        op, path: globs.
        nth: the first match that counts, from 1.
        forever: at every later match too.
        matches: how many there were.
    """

    op: str = "*"
    path: str = "*"
    nth: int = 1
    forever: bool = False
    matches: int = field(default=0, init=False)

    def hit(self, event: Event) -> bool:
        """Count the operation if it matches. Returns whether the rule applies to it now."""
        if not fnmatchcase(event.op, self.op):
            return False
        if not (fnmatchcase(event.path, self.path) or fnmatchcase(event.to_path, self.path)):
            return False
        self.matches += 1
        return self.matches == self.nth or (self.forever and self.matches > self.nth)

    @property
    def spent(self) -> bool:
        """Whether it can never apply again."""
        return not self.forever and self.matches >= self.nth


@dataclass
class Fail(Rule):
    """The operation fails with an errno; a sync with one of three aftermaths."""

    code: int = errno.EIO
    aftermath: str = "kept"


@dataclass
class Slow(Rule):
    """The operation takes longer."""

    delay_s: float = 0.0


@dataclass
class Kill(Rule):
    """A process is killed before or after the operation; optionally the power is cut with it.

    Attributes:
        pid: whom; 0 for the process that asked for the operation.
        before: before the operation is carried out, which then does not happen.
        cut: cut the power at the same moment.
    """

    pid: int = 0
    before: bool = True
    cut: bool = False


@dataclass
class Hook(Rule):
    """Something else to do before or after the operation: `action` gets the event."""

    before: bool = True
    action: Callable[[Event], None] = field(default=lambda event: None)


class Faults:
    """All rules of a mount, and the watchers of its operations.

    Attributes:
        fail_sync: called with the inode and the aftermath of an injected sync failure.
        cut_power: called when a `Kill` rule also cuts the power.
        watchers: called with each event and its error, after it.
    """

    def __init__(self) -> None:
        self.rules: list[Rule] = []
        self.watchers: list[Callable[[Event, OSError | None], None]] = []
        self.fail_sync: Callable[[Inode, str], None] = lambda inode, aftermath: None
        self.cut_power: Callable[[], None] = lambda: None
        self._delays = threading.Event()
        self._due_after: list[tuple[Rule, Event]] = []

    @property
    def active(self) -> bool:
        """Whether operations have to be described and reported here at all."""
        return bool(self.rules or self.watchers)

    def add(self, rule: Rule) -> None:
        """Add a rule; it counts matches from now."""
        self.rules.append(rule)

    def clear(self, kind: type[Rule] = Rule) -> int:
        """Remove the rules of a kind and end the delays. Returns how many."""
        kept = [rule for rule in self.rules if not isinstance(rule, kind)]
        removed = len(self.rules) - len(kept)
        self.rules = kept
        self.end_delays()
        return removed

    def delay_s(self, event: Event) -> float:
        """Seconds by which the operation is to be delayed."""
        slow = [rule for rule in self.rules if isinstance(rule, Slow)]
        return sum(rule.delay_s for rule in slow if rule.hit(event))

    def wait(self, delay_s: float) -> None:
        """Let time pass, unless the delays are ended meanwhile."""
        self._delays.wait(delay_s)

    def end_delays(self) -> None:
        """Let the operation that is being delayed go on."""
        current, self._delays = self._delays, threading.Event()
        current.set()

    def before(self, event: Event) -> None:
        """Apply the rules that come before the operation; those that come after it are noted.

        Raises:
            OSError: the operation is not to be carried out.
        """
        due = [r for r in self.rules if not isinstance(r, Slow) and r.hit(event)]
        self.rules = [rule for rule in self.rules if not rule.spent]
        self._due_after = [(r, event) for r in due if not getattr(r, "before", True)]
        for rule in due:
            if isinstance(rule, Hook) and rule.before:
                rule.action(event)
            elif isinstance(rule, Kill) and rule.before:
                self._kill(rule, event)
                raise OSError(errno.EINTR, os.strerror(errno.EINTR))
            elif isinstance(rule, Fail):
                if event.op in SYNC_OPS:
                    self.fail_sync(event.inode, rule.aftermath)
                raise OSError(rule.code, os.strerror(rule.code))

    def after(self, event: Event, error: OSError | None) -> None:
        """Tell the watchers of the operation, and apply the rules that come after it."""
        due, self._due_after = self._due_after, []
        for watcher in self.watchers:
            watcher(event, error)
        for rule, _ in due:
            if isinstance(rule, Kill):
                self._kill(rule, event)
            elif isinstance(rule, Hook):
                rule.action(event)

    def _kill(self, rule: Kill, event: Event) -> None:
        pid = rule.pid or event.pid
        # A process of another container has no number here, and 0 would be our own process group. One that ended by
        # itself meanwhile is as dead as it was to be.
        if pid > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if rule.cut:
            self.cut_power()


def parse_errno(name: str) -> int:
    """The number of an errno called `name`, such as EIO. Raises CommandError."""
    code = getattr(errno, name, None) if name.startswith("E") else None
    if not isinstance(code, int):
        raise CommandError(f"unknown errno {name!r}; use a name such as EIO, ENOSPC, EINTR, EROFS")
    return code
