"""The pictures of the page, as inline SVG: they need no script and follow the page's light or dark colours."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from harness.crash_test.report.markup import Child, Markup, join, tag
from harness.crash_test.report.words import outcome_of, urgency
from harness.crash_test.results import CycleResult, TimelineEvent

WIDTH = 1000
_LEFT, _RIGHT = 92, 12
MOST_CELLS = 1500
MOST_POINTS = 400
MOST_EVENTS = 1500

# The lanes of a timeline from top to bottom, with the kinds of event in each.
_LANES = {
    "process": ("start", "ready", "kill"),
    "confirmed": ("ack",),
    "faults": ("fault", "armed"),
    "power": ("cut", "power-loss", "recovery-cut"),
    "after": ("recovered", "verified", "closed"),
}
_OTHERS = "others"  # the lane of all other kinds


def verdict_cells(cycles: Sequence[CycleResult]) -> Markup:
    """One cell for each cycle, or for several in a row where there are very many."""
    size = math.ceil(len(cycles) / MOST_CELLS) or 1
    groups = [cycles[start : start + size] for start in range(0, len(cycles), size)]
    return tag("ol", [_cell(group) for group in groups], class_="cells")


def _cell(group: Sequence[CycleResult]) -> Markup:
    shown = min(group, key=urgency)
    outcome = outcome_of(shown.verdict)
    where = (
        f"cycle {group[0].number}"
        if len(group) == 1
        else f"cycles {group[0].number} to {group[-1].number}"
    )
    title = f"{where}: {shown.verdict}, {shown.cut.planned}, {shown.counts.confirmed:,} confirmed"
    letter = "" if shown.passed else str(shown.verdict)[0]
    link = None if shown.passed else f"#cycle-{shown.number}"
    return tag("li", tag("a", letter, class_=outcome, title=title, href=link))


def entries_over_time(cycles: Sequence[CycleResult]) -> Markup:
    """Two panels over the same cycles: how many entries there are, and how many confirmed ones are lost."""
    points = _thinned(cycles)
    first, last = points[0].number, points[-1].number
    top, bottom, lost_top, lost_bottom = 16, 226, 256, 310
    highest = max(max(c.counts.confirmed_in_all, c.counts.recovered) for c in points) or 1
    most_lost = max(cycle.counts.lost for cycle in points)

    def x(number: int) -> float:
        return _LEFT + (number - first) / max(last - first, 1) * (WIDTH - _LEFT - _RIGHT)

    def y(count: int) -> float:
        return bottom - count / highest * (bottom - top)

    def line(values: Sequence[int], class_: str) -> Markup:
        pairs = zip(points, values, strict=True)
        # A run of one cycle is a point, which a line without length would not show.
        dots = [tag("circle", cx=x(c.number), cy=y(v), r=3.5, class_=class_) for c, v in pairs]
        path = " ".join(
            f"{x(c.number):.1f},{y(v):.1f}" for c, v in zip(points, values, strict=True)
        )
        return join(
            [tag("polyline", points=path, class_=class_), dots if len(points) <= 40 else None]
        )

    bars = [
        tag(
            "rect",
            tag("title", f"cycle {cycle.number}: {cycle.counts.lost:,} confirmed entries lost"),
            x=x(cycle.number) - 2,
            y=lost_bottom - height,
            width=4,
            height=height,
            class_="lost",
        )
        for cycle in points
        if cycle.counts.lost
        for height in [max(cycle.counts.lost / most_lost * (lost_bottom - lost_top), 3)]
    ]
    return _svg(
        lost_bottom + 34,
        "entries",
        _count_axis(highest, top, bottom),
        line([cycle.counts.recovered for cycle in points], "recovered"),
        line([cycle.counts.confirmed_in_all for cycle in points], "confirmed"),
        tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=lost_bottom, y2=lost_bottom, class_="axis"),
        tag("text", "lost", x=_LEFT - 8, y=lost_bottom, text_anchor="end"),
        tag("text", most_lost, x=_LEFT - 8, y=lost_top + 4, text_anchor="end")
        if bars
        else tag("text", "no confirmed entry was lost in any cycle", x=WIDTH / 2, y=lost_bottom - 10,
                 text_anchor="middle", class_="quiet"),
        bars,
        tag("text", f"cycle {first}", x=_LEFT, y=lost_bottom + 22),
        tag("text", f"cycle {last}", x=WIDTH - _RIGHT, y=lost_bottom + 22, text_anchor="end")
        if last > first
        else None,
    )  # fmt: skip


def _thinned(cycles: Sequence[CycleResult]) -> list[CycleResult]:
    """Of each stretch of cycles the one that lost most, and of equal ones the last."""
    size = math.ceil(len(cycles) / MOST_POINTS)
    stretches = (cycles[start : start + size] for start in range(0, len(cycles), size))
    return [
        max(stretch, key=lambda cycle: (cycle.counts.lost, cycle.number)) for stretch in stretches
    ]


def _count_axis(highest: int, top: int, bottom: int) -> Iterator[Markup]:
    for count in _ticks(highest):
        at = bottom - count / highest * (bottom - top)
        yield tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=at, y2=at,
                  class_="grid" if count else "axis")  # fmt: skip
        yield tag("text", count, x=_LEFT - 8, y=at + 4, text_anchor="end")


def _ticks(highest: int) -> list[int]:
    """Round numbers from 0 to at most ``highest``, about four of them."""
    rough = max(highest / 4, 1)
    power = 10 ** math.floor(math.log10(rough))
    step = int(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough))
    return list(range(0, highest + 1, step))


def timeline(events: Sequence[TimelineEvent]) -> Markup:
    """The events of a cycle in lanes over its milliseconds, with a line through the cut."""
    shown = events if len(events) <= MOST_EVENTS else _around_cut(events, MOST_EVENTS)
    used = {_lane_of(event) for event in shown}
    lanes = [name for name in (*_LANES, _OTHERS) if name in used]
    begin, end = shown[0].at_ms, max(shown[-1].at_ms, shown[0].at_ms + 1)
    height = 26 * len(lanes) + 34

    def x(at_ms: float) -> float:
        return _LEFT + (at_ms - begin) / (end - begin) * (WIDTH - _LEFT - _RIGHT)

    def mark(event: TimelineEvent, lane: int) -> Markup:
        title = tag("title", f"{event.at_ms:,.1f} ms: {event.kind} {event.detail}")
        top = 8 + 26 * lane
        if event.kind == "ack":
            return tag(
                "rect", title, x=x(event.at_ms) - 0.6, y=top + 4, width=1.2, height=14, class_="ack"
            )
        return tag("circle", title, cx=x(event.at_ms), cy=top + 11, r=5, class_=event.kind)

    cut = cut_of(events)
    return _svg(
        height,
        "timeline",
        [
            [
                tag("text", name, x=_LEFT - 12, y=8 + 26 * lane + 15, text_anchor="end"),
                tag("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=19 + 26 * lane, y2=19 + 26 * lane, class_="grid"),
            ]
            for lane, name in enumerate(lanes)
        ],
        tag("line", x1=x(cut.at_ms), x2=x(cut.at_ms), y1=4, y2=height - 22, class_="cut") if cut else None,
        [mark(event, lanes.index(_lane_of(event))) for event in shown],
        tag("text", f"{begin:,.0f} ms", x=_LEFT, y=height - 4),
        tag("text", f"cut at {cut.at_ms:,.0f} ms", x=min(max(x(cut.at_ms), 220), WIDTH - 220), y=height - 4,
            text_anchor="middle", class_="strong") if cut else None,
        tag("text", f"{end:,.0f} ms", x=WIDTH - _RIGHT, y=height - 4, text_anchor="end"),
    )  # fmt: skip


def _lane_of(event: TimelineEvent) -> str:
    return next((name for name, kinds in _LANES.items() if event.kind in kinds), _OTHERS)


def cut_of(events: Sequence[TimelineEvent]) -> TimelineEvent | None:
    """The moment of the cut; where it was planned, or else when the process was killed."""
    for kind in ("cut", "kill", "power-loss"):
        for event in events:
            if event.kind == kind:
                return event
    return None


def _around_cut(events: Sequence[TimelineEvent], count: int) -> Sequence[TimelineEvent]:
    cut = cut_of(events)
    middle = events.index(cut) if cut else len(events)
    start = max(0, min(middle - count // 2, len(events) - count))
    return events[start : start + count]


def _svg(height: float, kind: str, *children: Child) -> Markup:
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {WIDTH} {height:g}",
        role="img",
        aria_label=kind,
        class_=kind,
    )
