"""report.html: one file without scripts or anything from outside, understood at a glance."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from importlib import resources

from harness.crash_test.report.charts import entries_over_time, verdict_cells
from harness.crash_test.report.failures import failure
from harness.crash_test.report.markup import Child, Markup, tag
from harness.crash_test.report.words import MEANINGS, STAGES, banner, outcome_of, urgency
from harness.crash_test.results import CycleResult, RunResult, Stage

FAILURES_SHOWN = 25
CYCLES_SHOWN = 1000


def html_page(run: RunResult) -> str:
    """Return the document."""
    outcome, word, sentence = banner(run)
    style = resources.files(__package__).joinpath("page.css").read_text("utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        # The proof that nothing is loaded: a browser would refuse it.
        tag("meta", http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'; img-src data:"),
        tag("link", rel="icon", href="data:,"),
        tag("title", f"{word}: crash test of {run.settings.target}"),
        tag("style", Markup(style)),
    )  # fmt: skip
    body = tag(
        "body",
        tag(
            "header",
            tag("p", f"Crash test of {run.settings.target}", class_="eyebrow"),
            tag("h1", word),
            tag("p", sentence),
            class_=outcome,
        ),
        tag(
            "main",
            _numbers(run),
            _warnings(run.warnings),
            _repeat(run.failures),
            _section("Cycles", _cycles(run.cycles)) if run.cycles else None,
            _section("Entries", _entries(run.cycles)) if run.cycles else None,
            _section("Where the cuts fell", _coverage(run.cycles)),
            _failures(run.failures),
            _section("Every cycle", _table(run.cycles)) if run.cycles else None,
            _section("The run", _settings(run)),
        ),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _section(title: str, *children: Child) -> Markup:
    return tag("section", tag("h2", title), *children)


def _numbers(run: RunResult) -> Markup:
    passed = len(run.cycles) - len(run.failures)
    recovered = run.cycles[-1].counts.recovered if run.cycles else 0
    reached = sum(count > 0 for count in run.stages.values())
    tiles = {
        "cycles passed": f"{passed:,} of {len(run.cycles):,}",
        "entries confirmed": f"{run.confirmed:,}",
        "recovered at the end": f"{recovered:,}",
        "confirmed and lost": f"{run.lost:,}",
        "stages reached": f"{reached} of {len(Stage)}",
        "duration": _duration(run.duration_s),
    }
    return tag(
        "dl",
        [
            tag("div", tag("dt", name), tag("dd", value),
                class_="fail" if name == "confirmed and lost" and run.lost else None)
            for name, value in tiles.items()
        ],
        class_="tiles",
    )  # fmt: skip


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _warnings(warnings: Sequence[str]) -> Markup | None:
    if not warnings:
        return None
    return tag("aside", [tag("p", f"Note: {warning}") for warning in warnings])


def _repeat(failures: Sequence[CycleResult]) -> Markup | None:
    if not failures:
        return None
    first = min(failures, key=urgency)
    return tag(
        "div",
        tag(
            "p",
            "This repeats ",
            tag("a", f"cycle {first.number}", href=f"#cycle-{first.number}"),
            ":",
        ),
        tag("pre", shlex.join(first.repeat), class_="command"),
    )


def _cycles(cycles: Sequence[CycleResult]) -> Markup:
    present = sorted({cycle.verdict for cycle in cycles}, key=list(MEANINGS).index)
    legend = [
        tag(
            "li",
            tag("span", str(verdict), class_=f"badge {outcome_of(verdict)}"),
            f" {sum(cycle.verdict is verdict for cycle in cycles):,}: {MEANINGS[verdict]}",
        )
        for verdict in present
    ]
    return tag("div", verdict_cells(cycles), tag("ul", legend, class_="legend"))


def _entries(cycles: Sequence[CycleResult]) -> Markup:
    keys = {
        "recovered": "recovered",
        "confirmed": "confirmed until then",
        "lost": "confirmed and lost",
    }
    legend = [tag("li", tag("i", class_=name), text) for name, text in keys.items()]
    note = "What was written and not confirmed may survive: recovered is at or above confirmed."
    return tag(
        "div",
        entries_over_time(cycles),
        tag("ul", legend, class_="legend keys"),
        tag("p", note, class_="quiet"),
    )


def _coverage(cycles: Sequence[CycleResult]) -> Markup:
    """Stages down, ways to cut across; empty cells are shown, because what was not tried is not tested."""
    kinds: dict[str, Callable[[CycleResult], str]] = {
        "power": lambda cycle: cycle.profile if cycle.power == "lazyfs" else cycle.power,
        "source": lambda cycle: cycle.source,
        "faults": lambda cycle: (
            ", ".join(sorted({f.partition(" ")[0] for f in cycle.faults})) or "none"
        ),
    }
    groups = [(name, of, sorted({of(cycle) for cycle in cycles})) for name, of in kinds.items()]
    columns = [(of, value) for _, of, values in groups for value in values]
    top = [tag("th", name, colspan=str(len(values)), scope="colgroup") for name, _, values in groups
           if values]  # fmt: skip
    rows = []
    for stage in Stage:
        here = [cycle for cycle in cycles if cycle.cut.stage is stage]
        parts = [[cycle for cycle in here if of(cycle) == value] for of, value in columns]
        rows.append(
            tag(
                "tr",
                tag("th", str(stage), tag("small", STAGES[stage]), scope="row"),
                [_coverage_cell(part, len(cycles)) for part in (here, *parts)],
            )
        )
    empty = sum(not any(cycle.cut.stage is stage for cycle in cycles) for stage in Stage)
    note = (
        f"No cut fell in {empty} of {len(Stage)} stages: more cycles reach more of them. "
        "\N{MULTIPLICATION X} counts the cycles that did not pass."
    )
    corner = [tag("th", name, rowspan="2", scope="col") for name in ("stage", "all")]
    return tag(
        "div",
        tag("p", note if empty else "Cuts fell in every stage.", class_="quiet"),
        tag(
            "table",
            tag(
                "thead",
                tag("tr", corner, top),
                tag("tr", [tag("th", value, scope="col") for _, value in columns]),
            ),
            tag("tbody", rows),
            class_="coverage",
        ),
        class_="wide",
    )  # fmt: skip


def _coverage_cell(cycles: Sequence[CycleResult], of_all: int) -> Markup:
    if not cycles:
        return tag("td", "none", class_="empty")
    failed = sum(not cycle.passed for cycle in cycles)
    share = min(8 + 72 * len(cycles) / of_all, 80)
    mark = tag("b", f" \N{MULTIPLICATION X} {failed}", title="not passed") if failed else None
    return tag("td", len(cycles), mark, class_="number", style=f"--share:{share:.0f}%")


def _failures(failures: Sequence[CycleResult]) -> Markup | None:
    if not failures:
        return None
    rest = len(failures) - FAILURES_SHOWN
    more = tag("p", f"{rest:,} more are in report.json.", class_="quiet") if rest > 0 else None
    shown = [failure(cycle) for cycle in sorted(failures, key=urgency)[:FAILURES_SHOWN]]
    return _section("What did not pass", shown, more)


def _table(cycles: Sequence[CycleResult]) -> Markup:
    heads = ("cycle", "verdict", "cut", "stage", "power", "source", "faults",
             "sent", "confirmed", "recovered", "lost", "seconds")  # fmt: skip
    rows = [
        tag(
            "tr",
            tag("td", cycle.number, class_="number"),
            tag("td", tag("span", str(cycle.verdict), class_=f"badge {outcome_of(cycle.verdict)}")),
            tag("td", cycle.cut.planned),
            tag("td", str(cycle.cut.stage)),
            tag("td", cycle.profile if cycle.power == "lazyfs" else cycle.power),
            tag("td", cycle.source),
            tag("td", "; ".join(cycle.faults)),
            [
                tag("td", count, class_="number")
                for count in (cycle.counts.sent, cycle.counts.confirmed, cycle.counts.recovered, cycle.counts.lost)
            ],
            tag("td", f"{cycle.durations.total_s:.2f}", class_="number"),
        )
        for cycle in cycles[:CYCLES_SHOWN]
    ]  # fmt: skip
    rest = len(cycles) - CYCLES_SHOWN
    return tag(
        "details",
        tag("summary", f"{min(len(cycles), CYCLES_SHOWN):,} cycles"),
        tag(
            "div",
            tag("table", tag("thead", tag("tr", [tag("th", head, scope="col") for head in heads])),
                tag("tbody", rows)),
            class_="wide",
        ),
        tag("p", f"{rest:,} more are in report.json.", class_="quiet") if rest > 0 else None,
    )  # fmt: skip


def _settings(run: RunResult) -> Markup:
    settings = run.settings
    facts = {
        "started": run.started_at,
        "exit code": f"{run.exit_code.value} ({run.exit_code.name.lower().replace('_', ' ')})",
        "seed": str(settings.seed),
        "flush mode": str(settings.flush_mode),
        "runner": settings.runner,
        "power": settings.power,
        **run.versions,
    }
    return tag(
        "div",
        tag("p", "The command of this run:"),
        tag("pre", shlex.join(settings.command_line()), class_="command"),
        tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()]),
    )
