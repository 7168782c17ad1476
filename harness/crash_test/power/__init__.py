"""The power that is cut: what the disk of the target holds afterwards."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from harness.crash_test.plan import Request
from harness.crash_test.processes import Child


@dataclass(frozen=True, slots=True)
class Pending:
    """What a power loss may take: paths (below the disk) with content, and with operations on names, not synced."""

    operations: int
    bytes: int
    content: tuple[str, ...]
    names: tuple[str, ...]


class Power(Protocol):
    """A disk and its power."""

    name: str
    disk: Path
    """Where stores are made, as the target sees it."""
    loses_power: bool
    """Whether a cut takes what was not synced."""
    has_faults: bool
    """Whether requests can fail, be slow, or be the moment of a cut."""

    @property
    def children(self) -> Collection[Child]:
        """Its own processes; `close` ends them."""

    def at_rest(self, store: Path) -> Path:
        """Return where the bytes of a store are that survived the last cut."""

    def begin_cycle(self, profile: str, seed: int) -> None:
        """Choose what the next cuts take."""

    def pending(self) -> Pending | None:
        """Return what is not synced; None if that is not known."""

    def cut(self) -> str:
        """Cut the power; no process of the target is left. Return what was lost, for people."""

    def kill_at(self, request: Request, store: Path, *, pid: int, power: bool) -> None:
        """Kill ``pid`` (0: whoever asks) at a request; with ``power``, that goes too."""

    def fell(self) -> bool:
        """Whether the request of `kill_at` came."""

    def clear(self) -> None:
        """Forget `kill_at` and all faults."""

    def command(self, command: str, /, **arguments: Any) -> dict[str, Any]:
        """Send a command to the disk; only with `has_faults`."""

    def close(self) -> None:
        """Leave nothing behind but the directory."""
