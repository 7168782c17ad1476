"""ci/nightly runs every combination, goes on after a failure, and keeps its report."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

import pytest

from harness.crash_test.cli import cli
from harness.crash_test.settings import (
    EMBEDDED_TARGET,
    FAULTS,
    PROFILES,
    SOURCES,
    THREADS_SOURCE,
)
from harness.oracle import FlushMode

NIGHTLY = Path(__file__).parents[2] / "ci" / "nightly"

# Stands in for kifa-crash-test: fails for the first round, and leaves a report and evidence as that does.
STUB = """#!/bin/sh
echo "$@" >>"$LOG"
while [ $# -gt 0 ]; do
    if [ "$1" = --report ]; then report=$2; fi
    shift
done
mkdir -p "$report/data/evidence"
echo page >"$report/report.html"
[ "$(wc -l <"$LOG")" -ne 1 ]
"""

# Stands in for the interpreter of the random lives: those of a file fail.
PYTHON_STUB = """#!/bin/sh
echo "$KIFA_LIVES_SECONDS $KIFA_LIVES_SEED $*" >>"$LOG.lives"
echo said
case $* in *sources*) exit 1;; esac
"""


def nightly(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "bin").mkdir(exist_ok=True)
    for name, text in (("kifa-crash-test", STUB), ("python", PYTHON_STUB)):
        stub = tmp_path / "bin" / name
        stub.write_text(text)
        stub.chmod(0o755)
    return subprocess.run(
        [str(NIGHTLY), *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "BIN": str(tmp_path / "bin"), "LOG": str(tmp_path / "log"),
             "REPORTS": str(tmp_path / "reports")},
    )  # fmt: skip


def test_all_combinations_in_an_order_of_the_seed(tmp_path: Path) -> None:
    ended = nightly(tmp_path, "60", "5")
    assert ended.returncode == 1, ended.stderr
    assert "nightly: seed 5, 372 rounds of 25 cycles, 2 failed" in ended.stdout
    rounds = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    found = []
    for number, words in enumerate(rounds, 1):
        options = dict(zip(words[::2], words[1::2], strict=True))
        assert options["--seed"] == str(5 + number)
        assert cli.make_context("kifa-crash-test", list(words)) is not None
        names = ("--target", "--flush-mode", "--source", "--power", "--profile", "--faults")
        found.append(tuple(options.get(name, "") for name in names))
    modes = [mode.value for mode in FlushMode]
    daemon = [""]
    lazyfs = itertools.product(daemon, modes, SOURCES, ["lazyfs"], PROFILES, FAULTS)
    sigkill = itertools.product(daemon, modes, SOURCES, ["sigkill"], [""], ["none", "clock"])
    faults = [fault for fault in FAULTS if fault != "enospc"]
    threads = ([EMBEDDED_TARGET], modes, [THREADS_SOURCE], ["lazyfs"], PROFILES, faults)
    assert sorted(found) == sorted((*lazyfs, *sigkill, *itertools.product(*threads)))
    assert found != sorted(found)
    kept = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert kept == ["lives-file.log", "round-1", "round-1.log"]
    assert (tmp_path / "reports" / "lives-file.log").read_text() == "said\n"
    assert (tmp_path / "log.lives").read_text().splitlines() == [
        "360 5 -m pytest -q tests/test_many_lives.py",
        "360 5 -m pytest -q tests/sources/test_many_lives.py",
    ]
    assert (tmp_path / "reports" / "round-1" / "report.html").exists()


@pytest.mark.parametrize(("arguments", "code"), [((), 2), (("soon",), 2), (("0",), 4)])
def test_nothing_run_is_no_success(tmp_path: Path, arguments: tuple[str, ...], code: int) -> None:
    assert nightly(tmp_path, *arguments).returncode == code
