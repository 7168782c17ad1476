"""The part of the page about one cycle that did not pass: what is missing, where it was, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.crash_test.report.charts import cut_of, timeline
from harness.crash_test.report.markup import Markup, tag
from harness.crash_test.report.words import MEANINGS, outcome_of
from harness.crash_test.results import CycleResult, Finding, TimelineEvent
from harness.oracle import Verdict

FINDINGS_SHOWN = 200
EVENTS_BEFORE_CUT = 12
EVENTS_AFTER_CUT = 12


@dataclass(slots=True)
class _Range:
    """Findings of one kind whose LSNs follow each other."""

    first: Finding
    last: Finding

    def takes(self, finding: Finding) -> bool:
        before = self.last
        return (
            finding.lsn is not None
            and before.lsn is not None
            and finding.lsn == before.lsn + 1
            and (finding.verdict, finding.reason, finding.file)
            == (before.verdict, before.reason, before.file)
        )


def failure(cycle: CycleResult) -> Markup:
    """The section of one cycle."""
    return tag(
        "article",
        tag(
            "h3",
            tag("span", str(cycle.verdict), class_=f"badge {outcome_of(cycle.verdict)}"),
            f" Cycle {cycle.number}",
        ),
        tag("p", f"{MEANINGS[cycle.verdict]}.".capitalize(), class_="quiet"),
        _facts(cycle),
        tag("h4", "What was found"),
        _findings(cycle.findings),
        tag("h4", "Around the cut"),
        _timeline(cycle.timeline),
        tag("h4", "Repeat it"),
        tag("pre", shlex.join(cycle.repeat), class_="command"),
        tag("p", "Evidence: ", tag("code", str(cycle.evidence)))
        if cycle.evidence
        else tag("p", "No evidence was kept.", class_="quiet"),
        id=f"cycle-{cycle.number}",
        class_=outcome_of(cycle.verdict),
    )


def _facts(cycle: CycleResult) -> Markup:
    counts = cycle.counts
    power = f"{cycle.power}, {cycle.profile}" if cycle.power == "lazyfs" else cycle.power
    facts: dict[str, str] = {
        "cut": cycle.cut.planned
        + ("" if cycle.cut.fell else " (did not come; cut at the end of the feed)"),
        "fell during": str(cycle.cut.stage),
        "power": f"{power}{'' if cycle.cut.is_power else ' (the process only)'}",
        "faults": "; ".join(cycle.faults) or "none",
        "target": f"{cycle.target}, {cycle.mode}, by {cycle.source}",
        "seed": str(cycle.seed),
        "sent": f"{counts.sent:,}",
        "confirmed": f"{counts.confirmed:,} in this cycle, {counts.confirmed_in_all:,} in all",
        "recovered": f"{counts.recovered:,}",
        "lost": f"{counts.lost:,}",
    }
    return tag(
        "dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in facts.items()]
    )


def _findings(findings: Sequence[Finding]) -> Markup:
    ranges = list(_joined(findings))
    rows = [
        tag(
            "tr",
            tag("td", tag("span", str(found.first.verdict), class_=f"badge {outcome_of(found.first.verdict)}")),
            tag("td", _lsns(found), class_="number"),
            tag("td", found.first.reason),
            tag("td", _place(found.first)),
        )
        for found in ranges[:FINDINGS_SHOWN]
    ]  # fmt: skip
    if len(ranges) > FINDINGS_SHOWN:
        more = f"and {len(ranges) - FINDINGS_SHOWN:,} more, all of them in report.json"
        rows.append(tag("tr", tag("td", more, colspan="4", class_="quiet")))
    head = [tag("th", name, scope="col") for name in ("verdict", "LSN", "what", "where it was")]
    return tag(
        "div", tag("table", tag("thead", tag("tr", head)), tag("tbody", rows)), class_="wide"
    )


def _joined(findings: Sequence[Finding]) -> Iterator[_Range]:
    current: _Range | None = None
    for finding in findings:
        if current is not None and current.takes(finding):
            current.last = finding
            continue
        if current is not None:
            yield current
        current = _Range(finding, finding)
    if current is not None:
        yield current


def _lsns(found: _Range) -> str:
    first, last = found.first.lsn, found.last.lsn
    if first is None or last is None:
        return "\N{EN DASH}"
    if first == last:
        return f"{first:,}"
    return f"{first:,}\N{EN DASH}{last:,} ({last - first + 1:,})"


def _place(finding: Finding) -> Markup | str:
    if finding.file is None:
        return "nowhere on the disk" if finding.verdict is Verdict.LOST and finding.lsn else ""
    at = "" if finding.offset_bytes is None else f" at byte {finding.offset_bytes:,}"
    return tag("span", tag("code", finding.file), at)


def _timeline(events: Sequence[TimelineEvent]) -> Markup:
    if not events:
        return tag("p", "No events were recorded.", class_="quiet")
    ordered = sorted(events, key=lambda event: event.at_ms)
    cut = cut_of(ordered)
    middle = ordered.index(cut) if cut else len(ordered)
    near = ordered[max(0, middle - EVENTS_BEFORE_CUT) : middle + EVENTS_AFTER_CUT + 1]
    rows = [
        tag(
            "tr",
            tag("td", f"{event.at_ms:,.1f}", class_="number"),
            tag("td", f"{event.at_ms - cut.at_ms:+,.1f}" if cut else "", class_="number"),
            tag("td", event.kind),
            tag("td", event.detail),
            class_="cut" if event is cut else None,
        )
        for event in near
    ]
    head = [tag("th", name, scope="col") for name in ("ms", "from the cut", "event", "detail")]
    return tag(
        "div",
        timeline(ordered),
        tag(
            "details",
            tag("summary", f"{len(near)} events around the cut"),
            tag("table", tag("thead", tag("tr", head)), tag("tbody", rows)),
        ),
        class_="wide",
    )
