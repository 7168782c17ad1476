"""The limits to reach: which measurement decides on each, and whether it is met."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from bench.results import FLOOR, KIFA, Measurement, Run

# Ratios that differ by less are the same: the floor itself drifts as much.
NOISE = 0.08

Quantity = Callable[[Measurement], float | None]


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit. ``unit`` is of the quantity that is compared, not of the measurement."""

    name: str
    what: str
    measurement: str
    quantity: Quantity
    sign: Literal[">=", "<="]
    bound: float
    unit: str
    peer: str = ""  # what others reach, measured elsewhere


@dataclass(frozen=True, slots=True)
class Verdict:
    """A limit beside what was measured. ``met`` is None where nothing was."""

    name: str
    what: str
    measurement: str
    sign: str
    bound: float
    unit: str
    measured: float | None
    met: bool | None
    is_worthless: bool
    condition: str  # where the run was smaller than the limit asks for


def _ratio(to: str = FLOOR, subject: str = KIFA) -> Quantity:
    return lambda one: one.ratio(subject, to)


def _value(subject: str = KIFA) -> Quantity:
    return lambda one: one.median_of(subject)


def _latency(fraction: float, of_floor: float) -> Quantity:
    """The latency of Kifa at ``fraction`` divided by that of the floor at ``of_floor``."""

    def quantity(one: Measurement) -> float | None:
        if KIFA not in one.latencies or FLOOR not in one.latencies:
            return None
        floor = one.latencies[FLOOR].percentile_us(of_floor)
        return one.latencies[KIFA].percentile_us(fraction) / floor

    return quantity


def _excess_us(one: Measurement) -> float | None:
    if KIFA not in one.latencies or FLOOR not in one.latencies:
        return None
    mine, floor = (one.latencies[name].percentile_us(0.5) for name in (KIFA, FLOOR))
    return mine - floor


def _limit(
    what: str,
    measurement: str,
    quantity: Quantity,
    sign: Literal[">=", "<="],
    bound: float,
    unit: str,
) -> Limit:
    name = re.sub("[^a-z0-9_]+", "-", what.lower()).strip("-")
    return Limit(name, what, measurement, quantity, sign, bound, unit)


OF_FLOOR = "of the floor"
TIMES_FLOOR = "x the floor"
LIMITS: tuple[Limit, ...] = (
    _limit("append, 1 thread", "append/cautious/200/1", _ratio(), ">=", 0.93, OF_FLOOR),
    _limit(
        "append, 1 thread, p99",
        "append/cautious/200/1",
        _latency(0.99, 0.99),
        "<=",
        1.25,
        "x the floor's p99",
    ),
    _limit("append, over 100,000", "append/over-many", _ratio(), ">=", 0.88, OF_FLOOR),
    _limit("append_many of 50", "append_many/50", _ratio(), ">=", 0.90, OF_FLOOR),
    _limit("append_many of 500", "append_many/500", _ratio(), ">=", 0.80, OF_FLOOR),
    _limit("append_many of 5,000", "append_many/5000", _ratio(), ">=", 0.50, OF_FLOOR),
    _limit("8 threads, total", "threads/8", _ratio(), ">=", 3.2, TIMES_FLOOR),
    _limit("32 threads, total", "threads/32", _ratio(), ">=", 6.0, TIMES_FLOOR),
    _limit("32 threads, p99", "threads/32", _latency(0.99, 0.5), "<=", 15.0, "floors"),
    _limit("8 acknowledged clients, total", "clients/8", _ratio(), ">=", 3.2, TIMES_FLOOR),
    _limit("32 acknowledged clients, total", "clients/32", _ratio(), ">=", 6.0, TIMES_FLOOR),
    _limit("32 acknowledged clients, p99", "clients/32", _latency(0.99, 0.5), "<=", 15.0, "floors"),
    _limit(
        "8 acknowledged clients, median round trip",
        "clients/8",
        _latency(0.5, 0.5),
        "<=",
        3.0,
        "floors",
    ),
    _limit("8 clients beside one", "clients/8", _ratio("one client"), ">=", 3.0, "x one client"),
    _limit("32 clients beside one", "clients/32", _ratio("one client"), ">=", 6.0, "x one client"),
    _limit("one TCP sender, pipelined", "clients/pipelined", _value(), ">=", 300_000, "lines/s"),
    _limit("daemon from a file, cautious", "ingest/file/cautious", _value(), ">=", 2e6, "lines/s"),
    _limit("daemon from a pipe, cautious", "ingest/pipe/cautious", _value(), ">=", 2e6, "lines/s"),
    _limit(
        "daemon from a file, normal mode",
        "ingest/file/normal",
        _ratio("kifa cautious"),
        ">=",
        1.0 - NOISE,
        "of cautious, less the noise",
    ),
    _limit(
        "daemon from a pipe, normal mode",
        "ingest/pipe/normal",
        _ratio("kifa cautious"),
        ">=",
        1.0 - NOISE,
        "of cautious, less the noise",
    ),
    _limit("a burst through a pipe", "ingest/burst", _value(), ">=", 6e6, "lines/s"),
    _limit(
        "a lone line, write to ack, p50",
        "ingest/lone-line",
        _excess_us,
        "<=",
        40.0,
        "us above the floor",
    ),
    _limit("reopening after a kill", "recover/kill", _value(), "<=", 45.0, "ms"),
    _limit(
        "reopening with 1 M un-flushed entries", "recover/unflushed", _value(), "<=", 300.0, "ms"
    ),
    _limit("reopening after a clean close", "recover/clean", _value(), "<=", 10.0, "ms"),
    _limit("query 1 M entries to JSON on a pipe", "query/json", _value(), ">=", 4e6, "entries/s"),
    _limit("last 10 entries of 10 GiB", "query/last-10", _value(), "<=", 100.0, "ms"),
    _limit(
        "last 10 entries of 10 GiB, memory", "query/last-10-memory", _value(), "<=", 64.0, "MiB"
    ),
    _limit("a minute of 10 GiB", "query/minute", _value(), "<=", 100.0, "ms"),
    _limit("a minute of 10 GiB, memory", "query/minute-memory", _value(), "<=", 64.0, "MiB"),
    _limit(
        "written to the device, 1 sender", "footprint/device/1", _value(), "<=", 4900.0, "B/entry"
    ),
    _limit(
        "written to the device, 8 senders", "footprint/device/8", _value(), "<=", 1400.0, "B/entry"
    ),
    _limit(
        "written over the life of 10 GiB", "footprint/life", _value(), "<=", 3.0, "B per B logged"
    ),
    _limit("at rest", "footprint/at-rest", _value(), "<=", 0.25, "of raw"),
    _limit("daemon at rest, resident", "footprint/rest-resident", _value(), "<=", 16.0, "MiB"),
    _limit("daemon at rest, private", "footprint/rest-private", _value(), "<=", 9.0, "MiB"),
    _limit("daemon at full load, resident", "footprint/load", _value(), "<=", 64.0, "MiB"),
    _limit("idle daemon, all sources, resident", "footprint/idle-all", _value(), "<=", 32.0, "MiB"),
    _limit("idle daemon, wake-ups", "footprint/wake-ups", _value(), "<=", 0.0, "in 10 s"),
    _limit("`kifa --version`", "footprint/version", _ratio(), "<=", 4.5, "x `python -c pass`"),
    _limit("daemon start to ready", "footprint/ready", _ratio(), "<=", 8.0, "x `python -c pass`"),
    _limit(
        "a second sender's p99 while 1 GiB is compacted",
        "ingest/compaction-stall",
        _latency(0.99, 0.5),
        "<=",
        10.0,
        "floors",
    ),
)


def judge(run: Run) -> list[Verdict]:
    """Return a verdict on every limit, in the order of the table."""
    return [_verdict(limit, run.find(limit.measurement)) for limit in LIMITS]


def _verdict(limit: Limit, one: Measurement | None) -> Verdict:
    measured = None if one is None else limit.quantity(one)
    met = None
    if measured is not None:
        met = measured >= limit.bound if limit.sign == ">=" else measured <= limit.bound
    return Verdict(
        limit.name,
        limit.what,
        limit.measurement,
        limit.sign,
        limit.bound,
        limit.unit,
        measured,
        met,
        one is not None and one.is_worthless,
        str(one.parameters.get("condition", "")) if one is not None else "",
    )
