"""The report: three files that say the same, and a page that loads nothing and shows everything as text."""

from __future__ import annotations

import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from harness.crash_test.report import write_report
from harness.crash_test.report.junit import junit_xml
from harness.crash_test.report.page import CYCLES_SHOWN, FAILURES_SHOWN, html_page
from harness.crash_test.results import (
    Counts,
    Cut,
    CycleResult,
    Durations,
    ExitCode,
    Finding,
    RunResult,
    Stage,
    TimelineEvent,
    exit_code_of,
)
from harness.crash_test.settings import Settings
from harness.oracle import Verdict
from tests.harness.test_results import runs


class Page(HTMLParser):
    """Collects the text of a page, and fails where elements do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def numbers(self) -> dict[str, str]:
        """The numbers at the top, by what they stand for."""
        start = self.texts.index("cycles passed")
        words = [text for text in self.texts[start:] if text.strip()]
        return dict(zip(words[:12:2], words[1:12:2], strict=True))


def sample_cycle(number: int, verdict: Verdict, seed: int = 1) -> CycleResult:
    """A cycle as a run makes them, with a plausible timeline."""
    rng = random.Random(seed * 1000 + number)
    confirmed = rng.randrange(60, 200)
    cut_at = 80 + 4.1 * confirmed
    acks = [
        TimelineEvent(60 + 4.1 * n + rng.random() * 2, "ack", f"LSN {number * 150 + n}")
        for n in range(confirmed)
    ]
    timeline = (
        TimelineEvent(0, "start", "kifa daemon"),
        TimelineEvent(52, "ready", "LSN 1 to 17"),
        *acks,
        TimelineEvent(cut_at - 20, "fault", "EIO at fdatasync 3 of wal/*.wal"),
        TimelineEvent(cut_at, "cut", "before fdatasync 41 of wal/*.wal"),
        TimelineEvent(cut_at + 0.2, "kill", "SIGKILL"),
        TimelineEvent(cut_at + 3, "power-loss", "14 of 22 operations lost"),
        TimelineEvent(cut_at + 91, "recovered", "ready again"),
        TimelineEvent(cut_at + 160, "verified", f"{number * 150} entries"),
    )
    first = number * 150
    where = f"wal/{first - 20:016x}.wal"
    findings: tuple[Finding, ...] = ()
    if verdict is Verdict.LOST:
        findings = (
            *(Finding(verdict, first + n, "confirmed and missing", where, 8192) for n in range(37)),
            Finding(verdict, first + 90, "confirmed and missing"),
            Finding(Verdict.HARNESS_BROKEN, None, "the two readers do not agree"),
        )
    elif verdict is not Verdict.PASS:
        findings = (Finding(verdict, first, "was never sent <b>&\x00</b>"),)
    stages = (
        Stage.APPEND,
        Stage.SYNC,
        Stage.SYNC,
        Stage.SYNC,
        Stage.ROTATE,
        Stage.RECOVER,
        Stage.FLUSH,
    )
    return CycleResult(
        number=number,
        seed=rng.randrange(10**6),
        mode="cautious",
        source=rng.choice(("stdin", "tcp", "unix", "file")),
        target="kifa",
        profile=rng.choice(("posix-strict", "ext4-ordered", "random")),
        power="lazyfs",
        faults=("EIO at fdatasync 3 of wal/*.wal (dropped)",) if rng.random() < 0.3 else (),
        cut=Cut("before fdatasync 41 of wal/*.wal", rng.choice(stages), rng.random() < 0.5, True),
        counts=Counts(
            sent=confirmed + 5,
            confirmed=confirmed,
            confirmed_in_all=number * 140,
            recovered=number * 141 - 38 * (verdict is Verdict.LOST),
            lost=38 if verdict is Verdict.LOST else 0,
            at_stake=5,
        ),
        verdict=verdict,
        findings=findings,
        timeline=timeline,
        durations=Durations(0.05, 0.4, 0.09, 0.07, 0.7),
        evidence=None if verdict is Verdict.PASS else Path(f"/var/tmp/kifa/cycle-{number}"),
        repeat=("kifa-crash-test", "--seed", "7", "--cycles", str(number), "--faults", "it's"),
    )  # fmt: skip


def sample_run(verdicts: list[Verdict], exit_code: ExitCode | None = None) -> RunResult:
    """A run with these verdicts."""
    cycles = tuple(sample_cycle(number, verdict) for number, verdict in enumerate(verdicts, 1))
    return RunResult(
        Settings(cycles=len(cycles), seed=7, profile="mixed"),
        {"python": "3.11.2", "kernel": "6.1", "kifa": "0.1.0"},
        "2026-01-02T03:04:05Z",
        71.3,
        cycles,
        exit_code_of(cycles) if exit_code is None else exit_code,
    )


MANY = [Verdict.PASS] * 30
FAILING = [*MANY, Verdict.LOST, *MANY, Verdict.NOT_MEASURED, Verdict.PHANTOM, Verdict.LOST]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a run takes minutes to shrink
)
@given(runs)
def test_any_run_gives_well_formed_documents(run: RunResult) -> None:
    page = Page(html_page(run))
    for name, attributes in page.elements:
        assert name not in (
            "script",
            "img",
            "iframe",
            "object",
            "embed",
            "audio",
            "video",
            "base",
            "form",
        )
        assert not attributes.keys() & {"src", "srcset", "xlink:href", "action", "formaction"}
        assert not any(key.startswith("on") for key in attributes)
        if attributes.get("href") is not None:
            assert str(attributes["href"]).startswith(("#cycle-", "data:,"))
    suite = ElementTree.fromstring(junit_xml(run)).find("testsuite")
    assert suite is not None
    passed = run.exit_code is ExitCode.PASSED and not run.failures
    assert passed == (suite.get("failures") == suite.get("errors") == "0")


def test_nothing_is_loaded_from_outside() -> None:
    text = html_page(sample_run(FAILING))
    assert "://" not in text
    assert "//" not in text.replace("<!doctype", "")
    assert "@import" not in text
    assert re.findall(r"url\(", text) == []
    policies = [attributes.get("content") for _, attributes in Page(text).elements
                if attributes.get("http-equiv") == "Content-Security-Policy"]  # fmt: skip
    assert "default-src 'none'" in str(policies)


def test_the_page_and_the_json_have_the_same_numbers(tmp_path: Path) -> None:
    run = sample_run(FAILING)
    write_report(run, tmp_path / "new" / "report")
    files = {path.name: path for path in (tmp_path / "new" / "report").iterdir()}
    assert files.keys() == {"report.json", "junit.xml", "report.html"}
    data = json.loads(files["report.json"].read_text())
    assert RunResult.from_json(data) == run
    page = Page(files["report.html"].read_text())
    totals = data["totals"]
    passed = totals["verdicts"]["PASS"]
    tiles = page.numbers()
    assert tiles["cycles passed"] == f"{passed} of {totals['cycles']}"
    assert tiles["entries confirmed"] == f"{totals['confirmed']:,}"
    assert tiles["confirmed and lost"] == f"{totals['lost']:,}" == "38"
    assert tiles["recovered at the end"] == f"{data['cycles'][-1]['counts']['recovered']:,}"
    for verdict, count in totals["verdicts"].items():
        assert f"{verdict}  {count}:" in page.text
    cells = [
        attributes for name, attributes in page.elements if name == "a" and "title" in attributes
    ]
    assert len(cells) == totals["cycles"]
    suite = ElementTree.parse(files["junit.xml"]).getroot().find("testsuite")
    assert suite is not None
    assert suite.get("tests") == str(totals["cycles"])
    assert suite.get("failures") == "3"
    assert suite.get("errors") == "1"
    assert len(suite.findall("testcase")) == totals["cycles"]


def test_the_coverage_table_shows_what_was_not_reached() -> None:
    run = sample_run(MANY)
    rows = re.findall(r'<th scope="row">(\w+)<small>.*?</tr>', html_page(run))
    assert rows == [str(stage) for stage in Stage]
    row = re.search(r'<th scope="row">compact<small>.*?</tr>', html_page(run))
    assert row is not None
    assert run.stages[Stage.COMPACT] == 0
    assert "number" not in row[0]
    assert row[0].count('class="empty"') > 1
    for stage, count in run.stages.items():
        found = re.search(
            rf'<th scope="row">{stage}<small>[^<]*</small></th><td[^>]*>(\w+)', html_page(run)
        )
        assert found is not None
        assert found[1] == (str(count) if count else "none")


def test_a_failure_shows_the_missing_lsns_where_they_were_and_how_to_repeat_it() -> None:
    page = Page(html_page(sample_run(FAILING)))
    assert "4,650\N{EN DASH}4,686 (37)" in page.text
    assert f"wal/{4630:016x}.wal" in page.text
    assert "at byte 8,192" in page.text
    assert "nowhere on the disk" in page.text
    assert """kifa-crash-test --seed 7 --cycles 31 --faults 'it'"'"'s'""" in page.text
    assert "/var/tmp/kifa/cycle-31" in page.text
    assert "was never sent <b>&\N{REPLACEMENT CHARACTER}</b>" in page.text


@pytest.mark.parametrize(
    ("verdicts", "code", "heading"),
    [
        (MANY, None, "Passed"),
        (FAILING, None, "Failed"),
        ([*MANY, Verdict.NOT_MEASURED], None, "Not measured"),
        ([], None, "Not measured"),
        ([], ExitCode.MISSING, "Stopped"),
        (MANY, ExitCode.INTERRUPTED, "Stopped"),
        ([Verdict.LOST], ExitCode.TERMINATED, "Failed"),
    ],
)
def test_the_banner(verdicts: list[Verdict], code: ExitCode | None, heading: str) -> None:
    assert f"<h1>{heading}</h1>" in html_page(sample_run(verdicts, code))


def test_a_run_that_was_stopped_is_an_error_for_ci() -> None:
    suite = ElementTree.fromstring(junit_xml(sample_run(MANY, ExitCode.INTERRUPTED)))[0]
    assert (suite.get("tests"), suite.get("errors")) == (str(len(MANY) + 1), "1")


def test_a_long_run_makes_a_page_of_bounded_size() -> None:
    run = sample_run([*MANY * 40, *[Verdict.LOST] * 50])
    text = html_page(run)
    assert len(text) < 4_000_000
    assert text.count("<article") == FAILURES_SHOWN
    assert f"{len(run.cycles) - CYCLES_SHOWN:,} more are in report.json." in text
