"""What a run found: the data that summary, report.json, JUnit and HTML are made from.

`RunResult.to_json` and `RunResult.from_json` are inverses, so that a report can be made again from its report.json.
"""

from __future__ import annotations

import types
import typing
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any, Self

from harness.crash_test.settings import Settings
from harness.oracle import Verdict


class Stage(StrEnum):
    """When in the life of a store a cut fell."""

    APPEND = "append"
    SYNC = "sync"
    ROTATE = "rotate"
    FLUSH = "flush"
    COMPACT = "compact"
    RECOVER = "recover"
    IDLE = "idle"


class ExitCode(IntEnum):
    """How ``kifa-crash-test`` ends."""

    PASSED = 0  # every cycle passed, and something was measured
    FAILED = 1  # a promise was broken
    USAGE = 2  # a wrong option
    NOT_MEASURED = 3  # nothing was at stake in a cycle, or the harness itself is wrong
    MISSING = 4  # something that is needed is not there: /dev/fuse, an engine, a permission, space
    INTERRUPTED = 130
    TERMINATED = 143


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """Something that happened in a cycle, in milliseconds since the cycle began (monotonic clock)."""

    at_ms: float
    kind: str  # "start", "ready", "ack", "fault", "cut", "kill", "power-loss", "recovered", "verified", "note"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise. ``lsn`` is None where it concerns no single entry; file and offset where they are known."""

    verdict: Verdict
    lsn: int | None
    reason: str
    file: str | None = None
    offset_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """The moment of a cut: what was planned, and where in the store's life it fell.

    Attributes:
        planned: such as "after 0.412 s", "at ack 37", "before fdatasync 4 of wal/*.wal".
        stage: what was under way.
        is_power: whether the power went at the same moment as the process.
        fell: whether the planned moment came; otherwise the cut fell when the feed ended.
    """

    planned: str
    stage: Stage
    is_power: bool
    fell: bool


@dataclass(frozen=True, slots=True)
class Counts:
    """Entries. `sent`, `confirmed` and `at_stake` are of this cycle, the others of the store's whole life.

    Attributes:
        sent: lines given to the target.
        confirmed: lines acknowledged.
        confirmed_in_all: lines acknowledged in this and all cycles before it.
        recovered: entries there after the recovery.
        lost: confirmed entries that are missing, or have other bytes.
        at_stake: lines without an answer, plus operations without a sync, when the cut fell.
    """

    sent: int = 0
    confirmed: int = 0
    confirmed_in_all: int = 0
    recovered: int = 0
    lost: int = 0
    at_stake: int = 0


@dataclass(frozen=True, slots=True)
class Durations:
    """Seconds: until the target was ready, of the feed, of the recovery until ready, of the verification, of all."""

    start_s: float = 0.0
    feed_s: float = 0.0
    recovery_s: float = 0.0
    verify_s: float = 0.0
    total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CycleResult:
    """One cycle: what was planned, what happened, and the judgement.

    Attributes:
        number: from 1.
        seed: of this cycle, drawn from that of the run.
        mode, source, target, profile, power: as drawn or given.
        faults: each with its place, such as "EIO at fdatasync 3 of wal/*.wal (dropped)".
        evidence: directory with disk, journal and output; None if it was not kept.
        repeat: the command that repeats it.
    """

    number: int
    seed: int
    mode: str
    source: str
    target: str
    profile: str
    power: str
    faults: tuple[str, ...]
    cut: Cut
    counts: Counts
    verdict: Verdict
    findings: tuple[Finding, ...]
    timeline: tuple[TimelineEvent, ...]
    durations: Durations
    evidence: Path | None
    repeat: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return self.verdict is Verdict.PASS


@dataclass(frozen=True, slots=True)
class RunResult:
    """All cycles of a run.

    Attributes:
        settings: as given, with the seed that was drawn.
        versions: of Python, kernel, the target, lazyfs, and so on.
        started_at: UTC, ISO 8601.
        duration_s: seconds in all.
        exit_code: what the command ends with.
        warnings: what limits the meaning of the result, such as that sigkill keeps the page cache.
    """

    settings: Settings
    versions: Mapping[str, str]
    started_at: str
    duration_s: float
    cycles: tuple[CycleResult, ...]
    exit_code: ExitCode
    warnings: tuple[str, ...] = ()

    @property
    def verdicts(self) -> Mapping[Verdict, int]:
        """How many cycles had each verdict, the worst first."""
        found = Counter(cycle.verdict for cycle in self.cycles)
        return {verdict: found[verdict] for verdict in Verdict if found[verdict]}

    @property
    def stages(self) -> Mapping[Stage, int]:
        """How many cuts fell in each stage, zeros included."""
        found = Counter(cycle.cut.stage for cycle in self.cycles)
        return {stage: found[stage] for stage in Stage}

    @property
    def confirmed(self) -> int:
        """Entries confirmed in all cycles."""
        return sum(cycle.counts.confirmed for cycle in self.cycles)

    @property
    def lost(self) -> int:
        """The most confirmed entries that any cycle found lost."""
        return max((cycle.counts.lost for cycle in self.cycles), default=0)

    @property
    def failures(self) -> tuple[CycleResult, ...]:
        return tuple(cycle for cycle in self.cycles if not cycle.passed)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON has it, with the totals beside it for other programs."""
        totals = {
            "cycles": len(self.cycles),
            "confirmed": self.confirmed,
            "lost": self.lost,
            "verdicts": {str(verdict): count for verdict, count in self.verdicts.items()},
            "stages": {str(stage): count for stage, count in self.stages.items()},
        }
        return {**encode(self), "totals": totals}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        decoded: Self = _decode(cls, data)
        return decoded


def exit_code_of(cycles: tuple[CycleResult, ...]) -> ExitCode:
    """What a run that was not interrupted ends with."""
    weak = {Verdict.NOT_MEASURED, Verdict.HARNESS_BROKEN}
    verdicts = {cycle.verdict for cycle in cycles}
    if verdicts - weak - {Verdict.PASS}:
        return ExitCode.FAILED
    if verdicts & weak or not cycles:
        return ExitCode.NOT_MEASURED
    return ExitCode.PASSED


def encode(value: Any) -> Any:
    """Return results as JSON has them."""
    if is_dataclass(value):
        return {field.name: encode(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, StrEnum | Path):
        return str(value)
    return int(value) if isinstance(value, IntEnum) else value


def _decode(kind: Any, value: Any) -> Any:
    """Give `value`, as JSON has it, the type `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _decode(arguments[0], value)
    if origin is tuple:
        return tuple(_decode(arguments[0], item) for item in value)
    if not isinstance(kind, type):
        return value
    if is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        named = hints.keys() & value.keys()
        return kind(**{name: _decode(hints[name], value[name]) for name in named})
    return kind(value) if issubclass(kind, StrEnum | IntEnum | Path) else value
