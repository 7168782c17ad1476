"""The crash test as its users run it: real targets on real mounts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.crash_test import self_check, stand
from harness.crash_test.clock import SHARED_MEMORY
from harness.crash_test.processes import Child
from harness.crash_test.results import ExitCode, RunResult
from harness.crash_test.run import Run, default_kifa_bin
from harness.crash_test.settings import Settings
from harness.oracle import Verdict

COMMAND = [sys.executable, "-m", "harness.crash_test"]


def run(tmp_path: Path, *arguments: str) -> tuple[int, RunResult]:
    """Run it with --json; return its exit code and what it found."""
    process = subprocess.run(
        [*COMMAND, "--json", "--data-dir", str(tmp_path / "data"), *arguments],
        capture_output=True,
        timeout=110,
        check=False,
    )
    assert process.stdout, process.stderr.decode()
    return process.returncode, RunResult.from_json(json.loads(process.stdout))


def test_kifa_passes_and_nothing_is_left_behind(tmp_path: Path) -> None:
    code, result = run(
        tmp_path,
        *("--cycles", "4", "--seed", "5", "--feed-seconds", "0.3"),
        *("--source", "mixed", "--profile", "mixed"),
    )
    assert [cycle.findings for cycle in result.cycles] == [()] * 4
    assert code == ExitCode.PASSED
    assert result.verdicts == {Verdict.PASS: 4}
    assert all(cycle.counts.confirmed and cycle.counts.at_stake for cycle in result.cycles)
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert not (tmp_path / "data").exists()


def test_a_mount_of_somebody_else_is_used_through_its_fifos(tmp_path: Path) -> None:
    mount, root = tmp_path / "mount", tmp_path / "root"
    commands, answers = tmp_path / "commands", tmp_path / "answers"
    for path in (mount, root):
        path.mkdir()
    config = tmp_path / "lazyfs.toml"
    config.write_text(f'[faults]\nfifo_path = "{commands}"\nfifo_path_completed = "{answers}"\n')
    lazyfs = [sys.executable, "-m", "lazyfs"]
    subprocess.run(
        [*lazyfs, str(mount), "--root", str(root), "--config", str(config)], check=True, timeout=60
    )
    try:
        foreign = ["--lazyfs-root", mount, "--lazyfs-fifo", commands, "--feed-seconds", "0.2"]
        honest = [*foreign, "--lazyfs-completed-fifo", answers]
        code, result = run(tmp_path, "--cycles", "3", "--seed", "2", *map(str, honest))
        assert [cycle.findings for cycle in result.cycles] == [()] * 3
        assert code == ExitCode.PASSED
        _, result = run(tmp_path, "--cycles", "3", "--target", "plain-file", *map(str, honest))
        assert Verdict.LOST in result.verdicts
    finally:
        subprocess.run([*lazyfs, "unmount", str(mount)], check=True, timeout=60)


@pytest.mark.parametrize("power", ["sigkill", "lazyfs"])
@pytest.mark.parametrize("faults", ["clock"])
def test_the_clock_of_the_target_may_jump(tmp_path: Path, power: str, faults: str) -> None:
    code, result = run(
        tmp_path, "--cycles", "3", "--power", power, "--faults", faults, "--feed-seconds", "0.3"
    )
    assert [cycle.findings for cycle in result.cycles] == [()] * 3
    assert code == ExitCode.PASSED


def test_a_clock_of_its_own_leaves_nothing_in_shared_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []

    class RecordedChild(Child):
        def __init__(self, command: Sequence[str], **options: Any) -> None:
            super().__init__(command, **options)
            pids.append(self.pid)

    monkeypatch.setattr(stand, "Child", RecordedChild)
    settings = Settings(
        seed=3,
        power="sigkill",
        faults="clock",
        cycles=1,
        feed_seconds=0.2,
        kifa_bin=default_kifa_bin(),
        data_dir=tmp_path / "data",
    )
    with Run(settings) as crash_test:
        result = crash_test.run(lambda cycle: None)
    assert result.verdicts == {Verdict.PASS: 1}
    assert len(pids) > 1
    assert [path for pid in pids for path in SHARED_MEMORY.glob(f"*faketime*_{pid}")] == []


@pytest.mark.parametrize("subject", self_check.SUBJECTS, ids=lambda subject: subject.what)
def test_each_subject_gets_the_verdict_it_deserves(subject: self_check.Subject) -> None:
    base = Settings(
        seed=self_check.SEED, kifa_bin=default_kifa_bin(), rate=2_000, feed_seconds=0.15
    )
    outcomes: list[self_check.Outcome] = []
    is_right = self_check.check(base, [subject], outcomes.append)
    assert is_right, [cycle.findings for cycle in outcomes[0].run.cycles]
