"""What several tests need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


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
