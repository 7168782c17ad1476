"""Line plots as SVG, with logarithmic axes, for a page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

Point = tuple[float, float]

WIDTH, HEIGHT = 620, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 96, 16, 46
LABEL_GAP = 13.0
_STEPS = (1, 2, 5)


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis: its range in data and in pixels, and where its lines are."""

    title: str
    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, here = map(math.log10, (self.low, self.high, max(value, self.low)))
        part = (here - low) / (high - low) if high > low else 0.5
        return self.start + part * (self.end - self.start)


def plot(
    series: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_title: str,
    y_title: str,
    x_ticks: Sequence[float] = (),
    name_of_tick: Callable[[float], str] | None = None,
) -> str:
    """Return an SVG with a line for each of ``series``, each named at its end.

    A line has the class ``line NAME``: the page gives the colours. Both axes are logarithmic.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_axis = _log_axis(x_title, xs, LEFT, WIDTH - RIGHT, x_ticks)
    y_axis = _log_axis(y_title, ys, HEIGHT - BOTTOM, TOP, ())
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">',
        *_grid(x_axis, y_axis, name_of_tick or short),
        *_lines(series, x_axis, y_axis),
        "</svg>",
    ]
    return "".join(parts)


def _log_axis(
    title: str, values: Sequence[float], start: float, end: float, ticks: Sequence[float]
) -> Axis:
    positive = [value for value in values if value > 0] or [1.0]
    low, high = min(positive), max(positive)
    if low == high:
        low, high = low / 2, high * 2
    chosen = tuple(ticks) or _log_ticks(low, high)
    return Axis(title, min(low, chosen[0]), max(high, chosen[-1]), start, end, chosen)


def _log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Return ticks around low to high: at 1, 2, 5 and their tens where few tens are spanned, else at tens."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = (1,) if last - first > 3 else _STEPS
    found = [step * 10.0**power for power in range(first, last + 1) for step in every]
    below = max((tick for tick in found if tick <= low), default=found[0])
    above = min((tick for tick in found if tick >= high), default=found[-1])
    return tuple(tick for tick in found if below <= tick <= above)


def _grid(x_axis: Axis, y_axis: Axis, name_of_tick: Callable[[float], str]) -> list[str]:
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.place(tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>'
        )
    for tick in x_axis.ticks:
        x, name = x_axis.place(tick), name_of_tick(tick)
        parts.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>'
            f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{name}</text>'
        )
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="title" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_axis.title)}</text>'
        f'<text class="title" transform="translate(13 {(TOP + base) / 2}) rotate(-90)"'
        f' text-anchor="middle">{escape(y_axis.title)}</text>'
    )
    return parts


def _lines(series: Mapping[str, Sequence[Point]], x_axis: Axis, y_axis: Axis) -> list[str]:
    parts, ends = [], []
    # The first is drawn last: it lies above the others.
    for name, points in reversed(list(series.items())):
        placed = [(x_axis.place(x), y_axis.place(y)) for x, y in points]
        if not placed:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline class="line {class_of(name)}" points="{path}"/>')
        if len(placed) <= 12:
            for (x, y), (here, value) in zip(placed, points, strict=True):
                parts.append(
                    f'<circle class="dot {class_of(name)}" cx="{x:.1f}" cy="{y:.1f}" r="4">'
                    f"<title>{escape(name)}: {value:,.3g} at {here:,.6g}</title></circle>"
                )
        ends.append((placed[-1][1], name))
    for y, name in _apart(ends):
        parts.append(
            f'<text class="name {class_of(name)}" x="{WIDTH - RIGHT + 9}" y="{y + 4:.1f}">{escape(name)}</text>'
        )
    return parts


def _apart(ends: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Move the names at the ends of the lines apart, so that none covers another."""
    placed: list[tuple[float, str]] = []
    for y, name in sorted(ends):
        least = placed[-1][0] + LABEL_GAP if placed else TOP
        placed.append((max(y, least), name))
    over = placed[-1][0] - (HEIGHT - BOTTOM) if placed else 0.0
    if over > 0:
        limit = float(HEIGHT - BOTTOM)
        for index in range(len(placed) - 1, -1, -1):
            limit = min(placed[index][0], limit)
            placed[index] = (limit, placed[index][1])
            limit -= LABEL_GAP
    return placed


def class_of(name: str) -> str:
    """Return the CSS class of a subject."""
    return "s-" + "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def short(value: float) -> str:
    """Return a number for an axis: 2k, 5M, 0.1."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.4g}{letter}"
    return f"{value:.4g}"
