"""The run as JUnit XML: one test case for each cycle, as CI systems show it."""

from __future__ import annotations

import shlex
from xml.etree import ElementTree

from harness.crash_test.report.markup import printable
from harness.crash_test.results import CycleResult, ExitCode, RunResult
from harness.oracle import Verdict

# What says nothing about the target is an error in JUnit's words; a broken promise is a failure.
_ERRORS = {Verdict.NOT_MEASURED, Verdict.HARNESS_BROKEN}
FINDINGS_SHOWN = 100
_DECLARATION = b'<?xml version="1.0" encoding="utf-8"?>\n'


def junit_xml(run: RunResult) -> bytes:
    """Return the document, UTF-8."""
    suite = ElementTree.Element("testsuite", name="kifa-crash-test")
    suite.set("timestamp", printable(run.started_at))
    for cycle in run.cycles:
        _add_cycle(suite, cycle)
    if run.exit_code is not ExitCode.PASSED and not run.failures:
        # Without this a run that was stopped, or did nothing, would look like one that passed.
        case = _add_case(suite, "kifa-crash-test", "the whole run", 0.0)
        reason = f"ended with exit code {run.exit_code.value} after {len(run.cycles)} cycles"
        ElementTree.SubElement(case, "error", message=reason, type=run.exit_code.name)
    for name, path in (("tests", "testcase"), ("failures", ".//failure"), ("errors", ".//error")):
        suite.set(name, str(len(suite.findall(path))))
    suite.set("skipped", "0")
    suite.set("time", f"{run.duration_s:.3f}")
    document = ElementTree.Element("testsuites")
    document.append(suite)
    ElementTree.indent(document)
    return _DECLARATION + ElementTree.tostring(document, encoding="unicode").encode() + b"\n"


def _add_case(
    suite: ElementTree.Element, class_name: str, name: str, seconds: float
) -> ElementTree.Element:
    return ElementTree.SubElement(
        suite, "testcase", classname=class_name, name=name, time=f"{seconds:.3f}"
    )


def _add_cycle(suite: ElementTree.Element, cycle: CycleResult) -> None:
    kind = ".".join(("kifa-crash-test", cycle.target, cycle.mode, cycle.source, cycle.profile))
    name = f"cycle {cycle.number}: {cycle.cut.planned} (seed {cycle.seed})"
    case = _add_case(suite, printable(kind), printable(name), cycle.durations.total_s)
    if cycle.passed:
        return
    reasons = [f"LSN {found.lsn}: {found.reason}" if found.lsn else found.reason
               for found in cycle.findings[:FINDINGS_SHOWN]]  # fmt: skip
    if len(cycle.findings) > FINDINGS_SHOWN:
        reasons.append(f"and {len(cycle.findings) - FINDINGS_SHOWN} more")
    outcome = ElementTree.SubElement(
        case,
        "error" if cycle.verdict in _ERRORS else "failure",
        message=printable(f"{cycle.verdict}: {reasons[0] if reasons else 'no finding'}"),
        type=str(cycle.verdict),
    )
    where = [f"evidence: {cycle.evidence}"] if cycle.evidence else []
    lines = [*reasons, *where, f"repeat: {shlex.join(cycle.repeat)}"]
    outcome.text = printable("\n".join(lines))
