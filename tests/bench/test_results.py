"""What is computed from rounds, and how it is judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.limits import LIMITS, judge
from bench.results import FLOOR, KIFA, Measurement, RunFileError, load_run
from tests.bench.runs import made_up, run_of, save

ROUNDS = st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), min_size=1, max_size=9)


@given(ROUNDS, st.floats(0.1, 10))
def test_a_ratio_does_not_see_what_slows_a_whole_round(
    rounds: list[tuple[float, float]], factor: float
) -> None:
    calm, slowed = made_up(kifa=(), floor=()), made_up(kifa=(), floor=())
    for kifa, floor in rounds:
        calm.add(KIFA, kifa)
        calm.add(FLOOR, floor)
        slowed.add(KIFA, kifa * factor)
        slowed.add(FLOOR, floor * factor)
    assert slowed.ratio() == pytest.approx(calm.ratio())
    assert slowed.spread == pytest.approx(calm.spread, abs=1e-6)


def test_the_best_peer_is_as_durable_as_kifa() -> None:
    one = made_up(sqlite=(50.0,), lmdb=(60.0,), plain=(99.0,))
    one.not_equal["plain"] = "no checksum"
    assert one.best_peer == "lmdb"
    one.higher_is_better = False
    assert one.best_peer == "sqlite"


def test_other_uses_of_kifa_are_no_peers() -> None:
    one = made_up()
    one.add("kifa cautious", 1000.0)
    assert one.peers == []
    assert one.best_peer is None


def test_rounds_that_disagree_are_worthless() -> None:
    assert not made_up(kifa=(95, 96, 94)).is_worthless
    assert made_up(kifa=(20, 95, 180)).is_worthless


def test_a_run_is_kept(tmp_path: Path) -> None:
    one = made_up(sqlite=(50.0, 51.0))
    one.not_equal["sqlite"] = "made up"
    again = load_run(save(tmp_path / "run", one))
    (found,) = again.measurements
    assert found.to_json() == one.to_json()
    assert again.header == run_of().header


def test_what_a_later_run_measured_again_counts() -> None:
    first = run_of(made_up("a", kifa=(1.0,)), made_up("b", kifa=(2.0,)))
    both = first.measured_again(run_of(made_up("b", kifa=(3.0,)), made_up("c", kifa=(4.0,))))
    assert {one.name: one.median_of() for one in both.measurements} == {"a": 1, "b": 3, "c": 4}
    assert both.header["command"].count(first.header["command"]) == 2
    assert first.header == run_of().header


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema": 1, "kind": "run"}', "\xff"])
def test_a_file_that_is_no_run_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run"
    path.write_text(content)
    with pytest.raises(RunFileError, match="run"):
        load_run(path)


def test_limits_are_judged_by_their_measurement() -> None:
    verdicts = {verdict.name: verdict for verdict in judge(run_of(made_up()))}
    assert verdicts["append-1-thread"].met is True
    assert verdicts["append-1-thread"].measured == pytest.approx(0.95)
    assert verdicts["append_many-of-50"].met is None
    slow = {verdict.name: verdict for verdict in judge(run_of(made_up(kifa=(90.0,))))}
    assert slow["append-1-thread"].met is False


def test_every_limit_has_a_name_of_its_own() -> None:
    assert len({limit.name for limit in LIMITS}) == len(LIMITS)
    assert all(limit.name.replace("-", "").replace("_", "").isalnum() for limit in LIMITS)


def test_json_has_what_can_be_computed(tmp_path: Path) -> None:
    data = json.loads(save(tmp_path / "run", made_up(sqlite=(50.0,))).read_text())
    (one,) = data["measurements"]
    assert one["ratio_to_floor"] == pytest.approx(0.95)
    assert one["best_peer"] == "sqlite"
    assert one["latencies"][KIFA]["p99_us"] > 0
    assert {limit["name"] for limit in data["limits"]} == {limit.name for limit in LIMITS}


def test_a_measurement_without_floor_has_no_ratio() -> None:
    one = Measurement("x", "x", "B")
    one.add(KIFA, 3.0)
    assert one.ratio() is None
    assert one.spread == 0
