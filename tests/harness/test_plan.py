"""The plan of a run: a pure function of the seed, that covers every stage and every kind of moment."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.crash_test.plan import plan_cycle
from harness.crash_test.results import Stage
from harness.crash_test.settings import FAULTS, PROFILES, SOURCES, Settings
from harness.crash_test.targets.kifa import REQUESTS
from harness.crash_test.workload import is_whole, lines, name_of

MIXED = Settings(source="mixed", profile="mixed", faults="mixed")


@settings(deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 10_000))
def test_the_same_seed_gives_the_same_plan(seed: int, number: int) -> None:
    run = replace(MIXED, seed=seed)
    assert plan_cycle(run, number, REQUESTS) == plan_cycle(run, number, REQUESTS)
    assert plan_cycle(run, number, REQUESTS) != plan_cycle(run, number + 1, REQUESTS)


def test_a_thousand_cycles_cover_everything() -> None:
    plans = [plan_cycle(MIXED, number, REQUESTS) for number in range(1, 1_001)]
    assert {plan.source for plan in plans} == set(SOURCES)
    assert {plan.profile for plan in plans} == set(PROFILES)
    assert {plan.faults for plan in plans} == set(FAULTS)
    assert {plan.stage for plan in plans} == set(Stage) - {Stage.IDLE}
    requested = {
        (plan.moment.request.op, plan.moment.request.path) for plan in plans if plan.moment.request
    }
    wanted = {
        (op, path)
        for stage, kinds in REQUESTS.items()
        if stage is not Stage.RECOVER
        for op, path, _ in kinds
    }
    assert requested == wanted
    assert any(plan.moment.after_s is not None for plan in plans)
    assert any(plan.moment.ack is not None for plan in plans)
    assert any(plan.look_between and plan.power for plan in plans)
    assert not any(plan.at_once and not plan.power for plan in plans)


def test_where_requests_cannot_be_seen_no_cut_waits_for_one() -> None:
    plans = [plan_cycle(Settings(power="sigkill"), number, {}) for number in range(1, 200)]
    assert not any(plan.moment.request or plan.recovery_cuts for plan in plans)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31), st.booleans())
def test_lines_come_from_the_seed_and_carry_number_and_digest(seed: int, heavy: bool) -> None:
    first = list(islice(lines(seed, "tcp-3-1", heavy=heavy), 20))
    assert first == list(islice(lines(seed, "tcp-3-1", heavy=heavy), 20))
    assert not set(first) & set(islice(lines(seed, "tcp-3-2", heavy=heavy), 20))
    assert [name_of(line) for line in first] == [f"tcp-3-1 number {n}" for n in range(1, 21)]
    assert all(map(is_whole, first))
    assert not any(is_whole(line.replace(b'"amount":', b'"amount":1')) for line in first)
