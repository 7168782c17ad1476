"""The crash test as its users run it: real targets on real mounts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from harness.crash_test.results import ExitCode, RunResult
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
