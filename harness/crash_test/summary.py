"""What a run says to people: a line for each cycle, a bar on a terminal, and a summary."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO, TYPE_CHECKING

from harness.crash_test.results import CycleResult, RunResult
from harness.crash_test.settings import Settings

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

MAX_FINDINGS_SHOWN = 5


def opening(settings: Settings) -> str:
    """Return what is said first: the seed above all."""
    return (
        f"seed {settings.seed}: {settings.cycles} cycles of {settings.target}, {settings.flush_mode}, "
        f"power {settings.power}"
        + (f" ({settings.profile})" if settings.power == "lazyfs" else "")
        + f", source {settings.source}, faults {settings.faults}"
    )


def cycle_line(cycle: CycleResult, of: int) -> str:
    """Return the line of a cycle."""
    counts = cycle.counts
    where = " ".join(filter(None, (cycle.source, cycle.profile, *cycle.faults)))
    line = (
        f"{cycle.number:>{len(str(of))}}/{of} {cycle.verdict:<14} {counts.confirmed:>5} confirmed "
        f"{counts.recovered:>6} recovered {counts.lost:>3} lost  {cycle.cut.stage:<7} {cycle.cut.planned}  [{where}]"
    )
    shown = cycle.findings[:MAX_FINDINGS_SHOWN]
    details = [
        f"    {finding.verdict}: "
        + (f"LSN {finding.lsn}: " if finding.lsn is not None else "")
        + finding.reason
        + (f" ({finding.file}" + _offset(finding.offset_bytes) + ")" if finding.file else "")
        for finding in shown
    ]
    if len(cycle.findings) > len(shown):
        details.append(f"    and {len(cycle.findings) - len(shown)} more findings")
    return "\n".join([line, *details])


def _offset(offset_bytes: int | None) -> str:
    return "" if offset_bytes is None else f" at byte {offset_bytes}"


def closing(run: RunResult) -> str:
    """Return the summary."""
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in run.verdicts.items())
    stages = ", ".join(f"{stage} {count}" for stage, count in run.stages.items())
    total = (
        f"{len(run.cycles)} cycles in {run.duration_s:.1f} s: {verdicts or 'none'}; "
        f"{run.confirmed} entries confirmed, {run.lost} of them lost"
    )
    lines = [
        total,
        f"cuts: {stages}",
        *(f"warning: {warning}" for warning in run.warnings),
    ]
    for failure in run.failures[:MAX_FINDINGS_SHOWN]:
        lines.append(f"cycle {failure.number} {failure.verdict}: evidence in {failure.evidence}")
        lines.append(f"  repeat with: {shlex.join(failure.repeat)}")
    return "\n".join(lines)


class Reporter(AbstractContextManager["Reporter"]):
    """Says a line for each cycle, below it a bar if standard error is a terminal."""

    def __init__(self, cycles: int, out: IO[str]) -> None:
        self._cycles = cycles
        self._out = out
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Reporter:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            # Without a thread that draws: children are forked here.
            self._progress = Progress(console=Console(stderr=True), auto_refresh=False)
            self._progress.start()
            self._task = self._progress.add_task("crash test", total=self._cycles)
            self._progress.refresh()
        return self

    def cycle(self, result: CycleResult) -> None:
        """A cycle has ended."""
        self.say(cycle_line(result, self._cycles))
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)
            self._progress.refresh()

    def say(self, text: str) -> None:
        """Print a text above the bar."""
        write: Callable[[str], object] = self._out.write
        if self._progress is not None and self._out.isatty():
            self._progress.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            write(text + "\n")
            self._out.flush()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
