"""What several tests need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# In CI a test that is skipped is an error, unless its reason begins with one of these.
ALLOWED_SKIPS: tuple[str, ...] = ()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A path for a store that does not exist yet."""
    return tmp_path / "store"


def run_python(
    script: str, *arguments: str, timeout_seconds: float = 60.0
) -> subprocess.CompletedProcess[bytes]:
    """Run ``script`` in an interpreter of its own and return what it said."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        timeout=timeout_seconds,
        check=False,
    )


_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(ALLOWED_SKIPS or ("\0",)):
            _skipped.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and os.environ.get("KIFA_SKIPS_ARE_ERRORS"):
        for line in _skipped:
            print(f"\nnot allowed to be skipped: {line}", file=sys.stderr)
        session.exitstatus = 1
