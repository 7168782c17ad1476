"""docs/PERFORMANCE.md, made from a run and from hand-written reasons for what was missed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from bench import text
from bench.limits import Verdict, judge
from bench.results import FLOOR, KIFA, Measurement, Run, RunFileError


def read_reasons(path: Path) -> dict[str, str]:
    """Return the reason of each limit's name, from the table ``[missed]`` of a TOML file; none where there is no file.

    Raises:
        RunFileError: it is no such file.
    """
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunFileError(f"{path} cannot be read: {error}") from None
    reasons = data.get("missed", {})
    if not isinstance(reasons, dict) or not all(isinstance(why, str) for why in reasons.values()):
        raise RunFileError(f"{path}: [missed] must give a text for each name of a limit")
    return {name: " ".join(why.split()) for name, why in reasons.items()}


def performance(run: Run, reasons: Mapping[str, str]) -> str:
    """Return the document."""
    verdicts = judge(run)
    met = sum(verdict.met is True for verdict in verdicts)
    missed = sum(verdict.met is False for verdict in verdicts)
    parts = [
        "# Performance",
        INTRODUCTION,
        _where(run),
        METHOD,
        f"## Limits to reach: {met} met, {missed} missed",
        _limits(verdicts),
        _missed(verdicts, reasons),
        "## All figures",
        "Median of the rounds; in brackets the ratio to the floor. Peers marked * are not as durable.",
        _figures(run),
        "## Latencies",
        "Microseconds: p50 / p99 / p99.9.",
        _latencies(run),
        _notes(run),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _where(run: Run) -> str:
    return "```\n" + text.header(run) + f"\n{run.header['command']}\n```"


INTRODUCTION = """Made by `kifa-bench report` from the runs named below (`make bench` makes one of everything);
do not edit. Each figure, its floor and its peers are of one run. The reasons for what was missed are in
[PERFORMANCE.reasons.toml](PERFORMANCE.reasons.toml)."""

METHOD = """## How it is measured, and how to repeat it

```sh
make bench                                             # everything, then this document
kifa-bench append --size 200 --group 1,50 --peers lmdb # a part; --quick, --long, --json, --html: kifa-bench --help
kifa-bench check build/bench.json --against OLD.json   # what became worse since
kifa-bench check --against bench/instructions.json     # the same on any machine, busy or not: valgrind counts
```

* Kifa, its floor and its peers take turns within each round, in one order and then in the other, on one file system.
  Ratios are made round by round: the floor drifts, even on a quiet machine. Differences of ratios below 0.08 are noise.
* The floor of a shape is its bare system calls in a C loop (`bench/_floor.pyx`): as many bytes as the entries have,
  in whole blocks, `O_DIRECT` into blocks that were written before, `fdatasync`. Without header, CRC or index.
* Peers sync as often as Kifa: SQLite in WAL mode with `synchronous=FULL`, LMDB with a transaction for each sync,
  RocksDB and LevelDB with synced writes. In normal mode they sync each 50th entry.
* Stores have lived for a while before single appends are measured: the segments of the log are used again. "Over
  100,000" begins with an empty one.
* "floors" are medians of single durable writes of one block, in the same rounds.
* Commands run as users install them, not from an editable install, whose import hook costs more than they do
  (`bench/installation.py`).
* At rest: the tables. The segments of the log (16 MiB each, up to about nine) are there whatever the store holds.
* Device writes are counted by a private loop device with its own ext4 (as root; else by `/proc/self/io`).
* "Rounds disagree" marks figures whose quartiles are more than 30 % of the median apart: they are worth nothing."""


def _limits(verdicts: list[Verdict]) -> str:
    lines = ["| what | wanted | measured | unit | |", "|---|---:|---:|---|---|"]
    for verdict in verdicts:
        name, wanted, measured, unit, word = text.limit_row(verdict)
        strong = f"**{word}**" if verdict.met is False else word
        lines.append(f"| {name} | {wanted} | {measured} | {unit} | {strong} |")
    return "\n".join(lines)


def _missed(verdicts: list[Verdict], reasons: Mapping[str, str]) -> str:
    missed = [verdict for verdict in verdicts if verdict.met is False]
    if not missed:
        return ""
    lines = [
        "## Why the missed ones were",
        "| what | wanted | measured | why |",
        "|---|---:|---:|---|",
    ]
    lines[0] += "\n"
    for verdict in missed:
        name, wanted, measured, unit, _ = text.limit_row(verdict)
        why = reasons.get(verdict.name, "not known yet")
        lines.append(f"| {name} | {wanted} {unit} | {measured} | {why} |")
    return "\n".join(lines)


def _figures(run: Run) -> str:
    subjects = [KIFA, FLOOR, *_peers(run)]
    lines = [
        "| what | unit | " + " | ".join(subjects) + " | Kifa to the best peer |",
        "|---|---|" + "---:|" * (len(subjects) + 1),
    ]
    for one in run.measurements:
        cells = [_figure(one, subject) for subject in subjects]
        doubt = " (rounds disagree)" if one.is_worthless else ""
        best = one.best_peer
        cells.append(f"{text.number(one.ratio(KIFA, best))} ({best})" if best else "")
        lines.append(f"| {one.what}{doubt} | {one.unit} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _peers(run: Run) -> list[str]:
    return list(dict.fromkeys(name for one in run.measurements for name in one.peers))


def _figure(one: Measurement, subject: str) -> str:
    value = one.median_of(subject)
    if value is None:
        return ""
    ratio = one.ratio(subject) if subject != FLOOR else None
    mark = "*" if subject in one.not_equal else ""
    return f"{text.number(value)}{mark}" + (f" ({text.number(ratio)})" if ratio is not None else "")


def _latencies(run: Run) -> str:
    subjects = [KIFA, FLOOR, *_peers(run)]
    lines = ["| what | " + " | ".join(subjects) + " |", "|---|" + "---:|" * len(subjects)]
    for one in run.measurements:
        if KIFA in one.latencies:
            cells = [_percentiles(one, subject) for subject in subjects]
            lines.append(f"| {one.what} | " + " | ".join(cells) + " |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _percentiles(one: Measurement, subject: str) -> str:
    histogram = one.latencies.get(subject)
    if histogram is None:
        return ""
    return " / ".join(
        text.number(histogram.percentile_us(fraction)) for fraction in (0.5, 0.99, 0.999)
    )


def _notes(run: Run) -> str:
    return "\n".join(note.replace("! warning:", "* Warning:") for note in text.notes(run))
