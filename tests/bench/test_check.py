"""What became worse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.check import NOISE, compare, compare_counts, compare_runs
from bench.instructions import from_json, to_json
from bench.workloads import WORKLOADS
from tests.bench.runs import bench, made_up, run_of, save

POSITIVE = st.floats(1e-3, 1e9)


@given(POSITIVE, POSITIVE, st.booleans(), st.floats(0, 2))
def test_worse_one_way_is_better_the_other(
    before: float, after: float, higher: bool, bound: float
) -> None:
    def verdict(old: float, new: float) -> str:
        return compare("x", "", old, new, higher_is_better=higher, bound=bound).verdict

    opposite = {"worse": "better", "better": "worse", "same": "same"}
    assert verdict(after, before) == opposite[verdict(before, after)]


@given(POSITIVE, st.floats(0, 2), st.booleans())
def test_nothing_changed(value: float, bound: float, higher: bool) -> None:
    assert compare("x", "", value, value, higher_is_better=higher, bound=bound).verdict == "same"


@given(POSITIVE, st.floats(0.01, 2))
def test_the_bound_is_the_bound(before: float, bound: float) -> None:
    def verdict(factor: float) -> str:
        after = before * factor
        return compare("x", "", before, after, higher_is_better=False, bound=bound).verdict

    assert verdict(1 + bound * 1.01) == "worse"
    assert verdict(1 + bound * 0.99) == "same"


def test_small_differences_of_ratios_are_noise() -> None:
    before = run_of(made_up(kifa=(20.0,), floor=(100.0,)))
    after = run_of(made_up(kifa=(20.0 - 100 * NOISE * 0.9,), floor=(100.0,)))
    (found,) = compare_runs(before, after, 0.25)
    assert found.verdict == "same"
    assert found.change > 0.25


def test_runs_are_compared_by_ratio() -> None:
    before = run_of(made_up(kifa=(95.0,), floor=(100.0,)))
    slow_machine = run_of(made_up(kifa=(9.5,), floor=(10.0,)))
    assert [one.verdict for one in compare_runs(before, slow_machine, 0.25)] == ["same"]
    slow_kifa = run_of(made_up(kifa=(50.0,), floor=(100.0,)))
    assert [one.verdict for one in compare_runs(before, slow_kifa, 0.25)] == ["worse"]
    assert [one.verdict for one in compare_runs(slow_kifa, before, 0.25)] == ["better"]


def test_only_what_both_have_is_compared() -> None:
    assert compare_runs(run_of(made_up("a")), run_of(made_up("b")), 0.25) == []
    assert [one.name for one in compare_counts({"a": 1, "b": 2}, {"b": 2, "c": 3}, 0.25)] == ["b"]


def test_without_floor_the_best_peer_is_the_measure() -> None:
    before = run_of(made_up(kifa=(100.0,), floor=(), sqlite=(50.0,), lmdb=(20.0,)))
    after = run_of(made_up(kifa=(10.0,), floor=(), sqlite=(5.0,), lmdb=(20.0,)))
    (found,) = compare_runs(before, after, 0.25)
    assert (found.unit, found.verdict) == ("x sqlite", "same")


def test_the_command_compares_files(tmp_path: Path) -> None:
    good = save(tmp_path / "good", made_up())
    bad = save(tmp_path / "bad", made_up(kifa=(40.0,)))
    same = bench("check", good, "--against", good)
    assert (same.returncode, same.stderr) == (0, "")
    assert "0 of 1 became worse" in same.stdout
    worse = bench("check", bad, "--against", good)
    assert worse.returncode == 1
    assert "1 of 1 became worse" in worse.stdout
    assert bench("check", bad, "--against", good, "--bound", "200").returncode == 0


def test_files_that_are_none(tmp_path: Path) -> None:
    good = save(tmp_path / "good", made_up())
    for arguments in (
        [good, "--against", tmp_path / "missing"],
        [tmp_path / "missing", "--against", good],
        [save(tmp_path / "other", made_up("b")), "--against", good],
    ):
        result = bench("check", *arguments)
        assert result.returncode == 2
        assert result.stderr.startswith("kifa-bench: ")
        assert result.stderr.count("\n") == 1


@pytest.mark.timeout(300)
def test_instructions_are_counted(tmp_path: Path) -> None:
    stored = json.loads((Path(__file__).parents[2] / "bench" / "instructions.json").read_text())
    names = from_json(stored).keys()
    assert names == {workload.__name__ for workload in WORKLOADS}
    path = tmp_path / "counts"
    path.write_text(json.dumps(to_json(dict.fromkeys(names, 1.0))))
    worse = bench("check", "--against", path)
    assert worse.returncode == 1, worse.stderr
    assert f"{len(names)} of {len(names)} became worse" in worse.stdout
    for line in worse.stdout.splitlines()[2 : 2 + len(names)]:
        assert float(line.split()[2].replace(",", "")) > 10, line
