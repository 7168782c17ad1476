"""``kifa-bench check``: what became worse since a stored run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.limits import NOISE
from bench.results import FLOOR, KIFA, Measurement, Run
from bench.text import number, table

DEFAULT_BOUND = 0.25


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure, before and after. ``change`` is positive where it became worse, as a part of what it was."""

    name: str
    unit: str
    before: float
    after: float
    change: float
    verdict: str  # "worse", "better", "same"


def compare(
    name: str,
    unit: str,
    before: float,
    after: float,
    *,
    higher_is_better: bool,
    bound: float,
    noise: float = 0.0,
) -> Comparison:
    """Return the verdict on one figure: the same where it moved by no more than ``bound`` or ``noise``."""
    if before == after:
        change = 0.0
    elif min(before, after) <= 0:
        change = float("inf") if (after > before) != higher_is_better else float("-inf")
    else:
        change = before / after - 1 if higher_is_better else after / before - 1
        # The same step must weigh the same in both directions.
        change = change if change >= 0 else -(1 / (1 + change) - 1)
    verdict = "same"
    if abs(change) > bound and abs(after - before) > noise:
        verdict = "worse" if change > 0 else "better"
    return Comparison(name, unit, before, after, change, verdict)


def compare_counts(
    before: Mapping[str, float], after: Mapping[str, float], bound: float
) -> list[Comparison]:
    """Compare instructions for each entry; what is missing on one side is not compared."""
    return [
        compare(
            name, "instructions", before[name], after[name], higher_is_better=False, bound=bound
        )
        for name in before
        if name in after
    ]


def compare_runs(before: Run, after: Run, bound: float) -> list[Comparison]:
    """Compare the ratios of two runs, one for each measurement that both have."""
    found = []
    for new in after.measurements:
        old = before.find(new.name)
        if old is None or old.unit != new.unit:
            continue
        reference = _reference(old, new)
        values = [
            one.ratio(KIFA, reference) if reference else one.median_of() for one in (old, new)
        ]
        if values[0] is None or values[1] is None:
            continue
        found.append(
            compare(
                new.what,
                f"x {reference}" if reference else new.unit,
                values[0],
                values[1],
                higher_is_better=new.higher_is_better,
                bound=bound,
                noise=NOISE if reference else 0.0,
            )
        )
    return found


def _reference(old: Measurement, new: Measurement) -> str | None:
    """Return what both runs compare Kifa with: the floor, or a peer; None where there is neither."""
    candidates = [FLOOR, *(name for name in new.peers if name == old.best_peer)]
    shared = [name for name in candidates if name in old.series and name in new.series]
    return shared[0] if shared else None


def report(comparisons: Sequence[Comparison], bound: float) -> str:
    """Return the comparison as text, what became worse first."""
    order = {"worse": 0, "better": 1, "same": 2}
    ordered = sorted(comparisons, key=lambda one: (order[one.verdict], -abs(one.change)))
    rows = [
        (one.name, number(one.before), number(one.after), one.unit, _percent(one), one.verdict)
        for one in ordered
    ]
    worse = sum(one.verdict == "worse" for one in comparisons)
    headings = ("what", "before", "now", "unit", "worse by", "")
    summary = f"{worse} of {len(comparisons)} became worse by more than {bound:.0%}"
    return f"{table(headings, rows)}\n\n{summary}\n"


def _percent(one: Comparison) -> str:
    return f"{one.change:+.1%}"
