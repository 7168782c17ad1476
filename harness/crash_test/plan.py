"""What each cycle is to do: a pure function of the settings and the number of the cycle.

A cut is drawn for a stage in the life of the store; each stage has requests to the file system that belong to it. A
request that does not come within the feed (nothing was flushed, say) leaves the cut to the end of the feed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.crash_test.results import Stage
from harness.crash_test.settings import FAULTS, MIXED, PROFILES, SOURCES, Settings

BURST_LINES = 40
UNTHROTTLED_LINES = 1_200
HEAVY_LINES = 120
MAX_STORE_CYCLES = 12


@dataclass(frozen=True, slots=True)
class Request:
    """The n-th request of a kind to the file system, at which the process is killed."""

    op: str
    path: str  # a glob, relative to the store
    nth: int
    when: str  # before or after

    def __str__(self) -> str:
        return f"{self.when} {self.op} {self.nth} of {self.path}"


@dataclass(frozen=True, slots=True)
class Moment:
    """When the cut falls: exactly one of the three is not None. All count from the first confirmation of the cycle."""

    after_s: float | None = None
    ack: int | None = None
    request: Request | None = None

    def __str__(self) -> str:
        if self.request is not None:
            return str(self.request)
        return f"at ack {self.ack}" if self.ack is not None else f"after {self.after_s:.3f} s"


@dataclass(frozen=True, slots=True)
class RecoveryCut:
    """Another cut, while the store recovers."""

    request: Request
    power: bool


@dataclass(frozen=True, slots=True)
class CyclePlan:
    """One cycle.

    Attributes:
        number: from 1.
        seed: of its lines, and of its power losses.
        source, profile, faults: as drawn or given.
        connections: how many senders, where the source allows more than one.
        heavy: most lines are large, so that the store rotates, flushes and compacts.
        max_lines: the feed ends after so many if the moment has not come.
        moment: of the cut.
        stage: the stage the moment was drawn for.
        power: whether the power goes; otherwise only the process is killed.
        at_once: whether process and power go at the same request; otherwise the power follows a little later.
        look: whether a reader looks at the store beside the running target.
        look_between: whether a reader looks between the death of the process and the power cut.
        recovery_cuts: cuts while the store recovers.
        begins_store: whether the cycle begins with a new store.
        rotates_file: whether the followed file is renamed, and a new one begun, before the feed.
    """

    number: int
    seed: int
    source: str
    profile: str
    faults: str
    connections: int
    heavy: bool
    max_lines: int
    moment: Moment
    stage: Stage
    power: bool
    at_once: bool
    look: bool
    look_between: bool
    recovery_cuts: tuple[RecoveryCut, ...]
    begins_store: bool
    rotates_file: bool


# For each stage: operation, path, and the highest n drawn.
Requests = Mapping[Stage, Sequence[tuple[str, str, int]]]


def plan_cycle(settings: Settings, number: int, requests: Requests) -> CyclePlan:
    """Plan one cycle.

    Args:
        number: from 1.
        requests: what the target asks of the file system in each stage; empty where requests cannot be cut at.
    """
    draw = random.Random(f"{settings.seed} {number}")
    source = draw.choice(SOURCES) if settings.source == MIXED else settings.source
    profile = draw.choice(PROFILES) if settings.profile == MIXED else settings.profile
    faults = draw.choice(FAULTS) if settings.faults == MIXED else settings.faults
    stage, moment = _moment(draw, settings, requests)
    heavy = stage in (Stage.ROTATE, Stage.FLUSH, Stage.COMPACT) or draw.random() < 0.15
    power = draw.random() < 0.85
    is_in_log = stage in (Stage.APPEND, Stage.SYNC)
    return CyclePlan(
        number=number,
        seed=draw.getrandbits(31),
        source=source,
        profile=profile,
        faults=faults,
        connections=draw.randint(1, 3) if source in ("tcp", "unix") else 1,
        heavy=heavy,
        max_lines=_max_lines(settings, heavy),
        moment=moment,
        stage=stage,
        power=power,
        at_once=power and moment.request is not None and draw.random() < 0.4,
        look=draw.random() < 0.3,
        # A group that is written and not synced is what a reader must not show before it has synced it.
        look_between=draw.random() < (0.7 if is_in_log and moment.request else 0.25),
        recovery_cuts=_recovery_cuts(draw, stage, requests),
        begins_store=number % MAX_STORE_CYCLES == 1 or draw.random() < 1 / MAX_STORE_CYCLES,
        rotates_file=source == "file" and draw.random() < 0.3,
    )


def _max_lines(settings: Settings, heavy: bool) -> int:
    most = HEAVY_LINES if heavy else UNTHROTTLED_LINES
    return min(most, int(settings.rate * settings.feed_seconds)) if settings.rate else most


def _moment(draw: random.Random, settings: Settings, requests: Requests) -> tuple[Stage, Moment]:
    stages = [stage for stage in requests if stage is not Stage.RECOVER and requests[stage]]
    kind = draw.random()
    if stages and kind < 0.6:
        chosen = draw.choice(stages)
        return chosen, Moment(request=_request(draw, requests[chosen]))
    is_recovery = bool(requests.get(Stage.RECOVER)) and kind < 0.75
    stage = Stage.RECOVER if is_recovery else Stage.APPEND
    if draw.random() < 0.5:
        return stage, Moment(ack=draw.randint(1, max(1, _max_lines(settings, False) // 2)))
    longest_s = settings.feed_seconds if settings.rate else settings.feed_seconds / 10
    return stage, Moment(after_s=draw.uniform(0, longest_s))


def _request(draw: random.Random, kinds: Sequence[tuple[str, str, int]]) -> Request:
    op, path, highest = draw.choice(kinds)
    return Request(op, path, draw.randint(1, highest), draw.choice(("before", "after")))


def _recovery_cuts(
    draw: random.Random, stage: Stage, requests: Requests
) -> tuple[RecoveryCut, ...]:
    kinds = requests.get(Stage.RECOVER)
    if stage is not Stage.RECOVER or not kinds:
        return ()
    return tuple(
        RecoveryCut(_request(draw, kinds), draw.random() < 0.8) for _ in range(draw.randint(1, 2))
    )
