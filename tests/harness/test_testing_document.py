"""docs/TESTING.md names tests, commands and words that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from harness.crash_test.results import ExitCode
from harness.crash_test.self_check import BEGIN, END
from harness.crash_test.settings import FAULTS, LYING_PROFILE, PROFILES
from harness.oracle import Verdict

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "TESTING.md").read_text()
REPRODUCERS = re.findall(r"`(tests/[\w/.]+\.py)::(\w+)`", TEXT)


def test_there_are_reproducers() -> None:
    assert len(REPRODUCERS) > 20
    assert len(set(REPRODUCERS)) == len(REPRODUCERS)


@pytest.mark.parametrize(("file", "name"), REPRODUCERS)
def test_each_fault_that_was_found_has_its_test(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_path_and_command_is_there() -> None:
    for path in re.findall(r"`?((?:tests|ci|lazyfs|\.github)/[\w/.-]*\w)", TEXT):
        assert (ROOT / path).exists(), path
    targets = set(re.findall(r"^(\S+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([\w-]+)", TEXT, re.MULTILINE)) <= targets


def test_every_verdict_profile_fault_and_exit_code_is_explained() -> None:
    rows = set(re.findall(r"^\| `([\w-]+)` \|", TEXT, re.MULTILINE))
    assert rows >= {str(verdict) for verdict in Verdict}
    assert rows >= {*PROFILES, LYING_PROFILE}
    for fault in FAULTS[1:]:
        assert f"`{fault}`" in TEXT
    for code in ExitCode:
        assert re.search(rf"^\| (\d+, )*{code.value}(, \d+)* \|", TEXT, re.MULTILINE), code


def test_the_generated_table_has_its_place() -> None:
    assert TEXT.index(BEGIN.format(name="self-check")) < TEXT.index(END.format(name="self-check"))
