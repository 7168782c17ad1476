"""The results: they survive the way through JSON, and say what the command ends with."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from harness.oracle import FlushMode, Verdict

paths = st.text("abc/ é", min_size=1).map(Path)
numbers = st.integers(0, 2**53)
seconds = st.floats(0, 1e6)
cycles = st.builds(
    CycleResult,
    number=numbers,
    seed=numbers,
    mode=st.sampled_from([mode.value for mode in FlushMode]),
    source=st.text(),
    target=st.text(),
    profile=st.text(),
    power=st.text(),
    faults=st.lists(st.text()).map(tuple),
    cut=st.builds(Cut, st.text(), st.sampled_from(Stage), st.booleans(), st.booleans()),
    counts=st.builds(Counts, *[numbers] * 6),
    verdict=st.sampled_from(Verdict),
    findings=st.lists(
        st.builds(
            Finding,
            st.sampled_from(Verdict),
            st.none() | numbers,
            st.text(),
            st.none() | st.text(),
            st.none() | numbers,
        )
    ).map(tuple),
    timeline=st.lists(st.builds(TimelineEvent, seconds, st.text(), st.text())).map(tuple),
    durations=st.builds(Durations, *[seconds] * 5),
    evidence=st.none() | paths,
    repeat=st.lists(st.text()).map(tuple),
)
settings = st.builds(
    Settings, flush_mode=st.sampled_from(FlushMode), seed=numbers, data_dir=st.none() | paths
)
runs = st.builds(
    RunResult,
    settings,
    st.dictionaries(st.text(), st.text()),
    st.text(),
    seconds,
    st.lists(cycles, max_size=4).map(tuple),
    st.sampled_from(ExitCode),
    st.lists(st.text()).map(tuple),
)


@hypothesis.settings(deadline=None)
@given(runs)
def test_a_run_survives_json(run: RunResult) -> None:
    assert RunResult.from_json(json.loads(json.dumps(run.to_json()))) == run


def cycle(verdict: Verdict, stage: Stage = Stage.SYNC) -> CycleResult:
    return CycleResult(
        number=1,
        seed=1,
        mode="cautious",
        source="stdin",
        target="kifa",
        profile="random",
        power="lazyfs",
        faults=(),
        cut=Cut("at ack 1", stage, True, True),
        counts=Counts(confirmed=2),
        verdict=verdict,
        findings=(),
        timeline=(),
        durations=Durations(),
        evidence=None,
        repeat=(),
    )


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], ExitCode.NOT_MEASURED),
        ([Verdict.PASS, Verdict.PASS], ExitCode.PASSED),
        ([Verdict.PASS, Verdict.NOT_MEASURED], ExitCode.NOT_MEASURED),
        ([Verdict.HARNESS_BROKEN], ExitCode.NOT_MEASURED),
        ([Verdict.NOT_MEASURED, Verdict.LOST], ExitCode.FAILED),
        ([Verdict.PASS, Verdict.UNAVAILABLE], ExitCode.FAILED),
    ],
)
def test_only_a_run_that_measured_and_passed_ends_with_0(
    verdicts: list[Verdict], expected: ExitCode
) -> None:
    assert exit_code_of(tuple(map(cycle, verdicts))) is expected


def test_totals_show_the_stages_no_cut_fell_in() -> None:
    run = RunResult(
        Settings(),
        {},
        "",
        1.0,
        (cycle(Verdict.PASS, Stage.FLUSH), cycle(Verdict.LOST, Stage.FLUSH)),
        ExitCode.FAILED,
    )
    totals = run.to_json()["totals"]
    assert totals["stages"]["flush"] == 2
    assert totals["stages"]["compact"] == 0
    assert totals["verdicts"] == {"LOST": 1, "PASS": 1}
    assert totals["confirmed"] == 4


def test_the_repeat_command_names_what_differs_from_the_defaults() -> None:
    settings = Settings(seed=7, flush_mode=FlushMode.NORMAL, rate=0, source="mixed")
    assert settings.command_line(3) == (
        *("kifa-crash-test", "--seed", "7", "--cycles", "3", "--flush-mode", "normal"),
        *("--rate", "0", "--source", "mixed", "--power", "lazyfs"),
    )
