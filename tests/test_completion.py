"""Completion of the command line, in bash itself and by what zsh and fish ask for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_cli import run

LINES = {
    "kifa que": "query",
    "kifa query --fol": "--follow",
    "kifa completion f": "fish",
    "kifa query --format j": "json",
}


@pytest.mark.parametrize("line", LINES)
def test_bash_completes(line: str) -> None:
    """With the script that `kifa completion bash` prints, as README.md says."""
    script = (
        'eval "$(kifa completion bash)"\n'
        "complete -p kifa >/dev/null || exit 1\n"
        f"COMP_WORDS=({line}) COMP_CWORD={len(line.split()) - 1}\n"
        "_kifa_completion kifa\n"
        'printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    found = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        env=os.environ | {"PATH": path},
        check=True,
        timeout=60,
    )
    assert found.stdout.decode().split() == [LINES[line]]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
@pytest.mark.parametrize("line", LINES)
def test_other_shells_are_answered(shell: str, line: str) -> None:
    words = line.split()
    number = str(len(words) - 1) if shell == "zsh" else words[-1]
    env = {"COMP_WORDS": line, "COMP_CWORD": number, "_KIFA_COMPLETE": f"{shell}_complete"}
    found = run(env=env)
    assert (found.returncode, found.stderr) == (0, b"")
    assert LINES[line] in found.stdout.decode().replace(",", "\n").replace("\t", "\n").splitlines()
