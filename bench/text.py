"""A run as a table of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.limits import Verdict, judge
from bench.results import FLOOR, KIFA, Measurement, Run

# Programs that ran in the minute before the first measurement, on average.
BUSY_LOAD = 0.5
IN_MEMORY = ("tmpfs", "ramfs")
VERDICTS = {True: "met", False: "missed", None: "not measured"}


def number(value: float | None) -> str:
    """Return a number as people read it: three digits that count, thousands apart."""
    if value is None:
        return "-"
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    digits = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def report(run: Run, *, with_limits: bool = True) -> str:
    """Return the whole run as text."""
    parts = [header(run), table(HEADINGS, [row for one in run.measurements for row in rows(one)])]
    if any(one.latencies for one in run.measurements):
        parts.append(table(LATENCY_HEADINGS, list(latency_rows(run.measurements))))
    verdicts = [verdict for verdict in judge(run) if verdict.met is not None]
    if with_limits and verdicts:
        parts.append(table(LIMIT_HEADINGS, [limit_row(verdict) for verdict in verdicts]))
    parts += notes(run)
    return "\n\n".join(parts) + "\n"


def header(run: Run) -> str:
    """Return where the run was made, in a few lines."""
    about = run.header
    peers = ", ".join(f"{name} {version}" for name, version in about["peers"].items())
    missing = "".join(
        f"; {name} is not installed (pip install 'kifa[bench]')" for name in about["not_installed"]
    )
    return (
        f"Kifa {about['kifa']}, {about['date']}, Python {about['python']}\n"
        f"{about['cpu']}, {about['cores']} cores, {about['memory_mib']:,} MiB; {about['kernel']}\n"
        f"{about['file_system']} ({about['mount_options']}) on {about['device']}\n"
        f"peers: {peers or 'none'}{missing}"
    )


HEADINGS = ("what", "subject", "median", "unit", "spread", "of floor", "of best peer")


def rows(one: Measurement) -> Iterator[tuple[str, ...]]:
    """Yield a row for each subject of a measurement, Kifa first."""
    subjects = [KIFA, *(name for name in one.series if name not in (KIFA, FLOOR)), FLOOR]
    for name in subjects:
        if name not in one.series:
            continue
        mark = "*" if name in one.not_equal else ""
        peer = one.best_peer if name == KIFA else None
        doubt = " !" if name == KIFA and one.is_worthless else ""
        yield (
            one.what if name == KIFA else "",
            name + mark,
            number(one.median_of(name)),
            one.unit,
            f"{number(min(one.series[name]))} to {number(max(one.series[name]))}{doubt}",
            number(one.ratio(name)) if name != FLOOR else "",
            f"{number(one.ratio(KIFA, peer))} ({peer})" if peer else "",
        )


LATENCY_HEADINGS = ("latency", "subject", "p50 us", "p99 us", "p99.9 us", "p99 of floor")


def latency_rows(measurements: Sequence[Measurement]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each histogram of the measurements."""
    for one in measurements:
        if KIFA not in one.latencies:
            continue
        floor = one.latencies.get(FLOOR)
        for name in sorted(one.latencies, key=lambda name: (name != KIFA, name == FLOOR)):
            histogram = one.latencies[name]
            p99 = histogram.percentile_us(0.99)
            yield (
                one.what if name == KIFA else "",
                name,
                number(histogram.percentile_us(0.5)),
                number(p99),
                number(histogram.percentile_us(0.999)),
                number(p99 / floor.percentile_us(0.99)) if floor and name != FLOOR else "",
            )


LIMIT_HEADINGS = ("limit", "wanted", "measured", "unit", "")


def limit_row(verdict: Verdict) -> tuple[str, ...]:
    """Return the row of one limit."""
    doubt = " (rounds disagree)" if verdict.is_worthless else ""
    condition = f" ({verdict.condition})" if verdict.condition else ""
    return (
        verdict.what,
        f"{verdict.sign} {number(verdict.bound)}",
        number(verdict.measured),
        verdict.unit,
        VERDICTS[verdict.met] + condition + doubt,
    )


def notes(run: Run) -> list[str]:
    """Return what a reader has to know beside the figures."""
    found = []
    reasons = {name: why for one in run.measurements for name, why in one.not_equal.items()}
    found += [f"* {name} is not equally durable: {why}" for name, why in reasons.items()]
    if run.header["file_system"] in IN_MEMORY:
        found.append(
            "! warning: this file system is in memory: give a directory on a disk with --dir"
        )
    if run.header["load_before"] > BUSY_LOAD:
        load = run.header["load_before"]
        found.append(f"! warning: the machine was busy before the run began: load {load:.1f}")
    doubtful = [one.what for one in run.measurements if one.is_worthless]
    if doubtful:
        found.append(
            "! warning: the rounds of these disagree so much that the figures are worth nothing:"
            " measure again on a quiet machine: " + "; ".join(doubtful)
        )
    return found


def table(headings: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Return columns of text, numbers to the right."""
    widths = [max(len(row[column]) for row in (headings, *body)) for column in range(len(headings))]
    lines = [headings, ["-" * width for width in widths], *body]
    return "\n".join(
        "  ".join(_cell(text, width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _cell(text: str, width: int) -> str:
    is_number = bool(text) and text[-1].isdigit() and text[0] in "0123456789-" and " " not in text
    return text.rjust(width) if is_number else text.ljust(width)
