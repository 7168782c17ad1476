"""What verdicts and exit codes mean to a person who has read nothing else."""

from __future__ import annotations

from harness.crash_test.results import CycleResult, ExitCode, RunResult, Stage
from harness.oracle import Verdict

MEANINGS = {
    Verdict.PASS: "every promise held, and something was at stake when the cut fell",
    Verdict.LOST: "an entry that was confirmed is missing",
    Verdict.CORRUPT: "an entry is there with other bytes, or under a number it must not have",
    Verdict.PHANTOM: "an entry is there that was never sent, or twice",
    Verdict.REORDERED: "entries stand in another order than they were sent in",
    Verdict.UNAVAILABLE: "the store cannot be read, or takes no entries any more",
    Verdict.NOT_MEASURED: "nothing was at stake, so the cycle proves nothing",
    Verdict.HARNESS_BROKEN: "the crash test contradicts itself, so it proves nothing",
}
STAGES = {
    Stage.APPEND: "entries being written",
    Stage.SYNC: "a sync under way",
    Stage.ROTATE: "the next segment being made",
    Stage.FLUSH: "a table being written",
    Stage.COMPACT: "tables being joined",
    Stage.RECOVER: "recovery from the cut before",
    Stage.IDLE: "nothing under way",
}
_WEAK = {Verdict.NOT_MEASURED, Verdict.HARNESS_BROKEN}
_SEVERITY = {verdict: position for position, verdict in enumerate(Verdict)}
_STOPS = {
    ExitCode.MISSING: "something that is needed was not there",
    ExitCode.INTERRUPTED: "interrupted",
    ExitCode.TERMINATED: "terminated",
}


def outcome_of(verdict: Verdict) -> str:
    """``pass``, ``weak`` (proves nothing) or ``fail`` (a promise is broken)."""
    return "pass" if verdict is Verdict.PASS else "weak" if verdict in _WEAK else "fail"


def urgency(cycle: CycleResult) -> tuple[int, int]:
    """For sorting: a broken promise before a cycle that proves nothing before a pass."""
    return ("fail", "weak", "pass").index(outcome_of(cycle.verdict)), _SEVERITY[cycle.verdict]


def banner(run: RunResult) -> tuple[str, str, str]:
    """Return the outcome (``pass``, ``weak`` or ``fail``), the word, and the sentence below it."""
    count = len(run.cycles)
    cycles = "1 cycle" if count == 1 else f"{count:,} cycles"
    broken = {v: n for v, n in run.verdicts.items() if outcome_of(v) == "fail"}
    if broken:
        kinds = ", ".join(f"{number:,} {verdict}" for verdict, number in broken.items())
        lost = f" {run.lost:,} confirmed entries are lost." if run.lost else ""
        return (
            "fail",
            "Failed",
            f"A promise was broken in {sum(broken.values()):,} of {cycles}: {kinds}.{lost}",
        )
    if run.exit_code is ExitCode.PASSED:
        return (
            "pass",
            "Passed",
            f"{run.confirmed:,} entries were confirmed and none is lost, in {cycles}.",
        )
    if run.exit_code in _STOPS:
        return "weak", "Stopped", f"The run ended after {cycles}: {_STOPS[run.exit_code]}."
    weak = len(run.failures)
    return (
        "weak",
        "Not measured",
        f"The run proves nothing: {weak:,} of {cycles} had nothing to judge.",
    )
