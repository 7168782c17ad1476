"""docs/LAZYFS.md says what the code does: profiles, commands with their arguments, operations, configuration."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from lazyfs.config import load_config
from lazyfs.control import Control
from lazyfs.describe import OP_NAMES
from lazyfs.profiles import PROFILES

TEXT = (Path(__file__).parents[2] / "docs" / "LAZYFS.md").read_text()


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [re.split(r"\s*\|\s*", line)[1:-1] for line in lines[2:]]


def test_each_profile_is_explained() -> None:
    assert {row[0].split("`")[1] for row in rows("Profiles")} == set(PROFILES)


def test_each_command_is_there_with_its_arguments() -> None:
    documented: dict[str, set[str]] = {}
    for names, arguments, _ in rows("Control by socket"):
        for name in re.findall(r"`([\w-]+)`", names):
            # What stands in brackets is a default.
            documented[name] = set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", arguments)))
    real = {
        name.replace("_", "-"): set(inspect.signature(method).parameters) - {"self"}
        for name, method in inspect.getmembers(Control, inspect.isfunction)
        if getattr(method, "is_command", False)
    }
    assert documented.keys() == real.keys()
    # `rules` and `clear` share a row; only the second has an argument.
    assert documented.pop("rules") == documented["clear"]
    assert documented == {name: real[name] for name in documented}


def test_each_operation_is_named() -> None:
    section = TEXT.split("Operations: `")[1].split("`")[0]
    assert set(section.split()) == OP_NAMES


def test_the_configuration_is_one(tmp_path: Path) -> None:
    block = re.search(r"^    \[faults\]\n(?:    .*\n|\n)+", TEXT, re.MULTILINE)
    assert block is not None
    path = tmp_path / "lazyfs.toml"
    path.write_text(re.sub(r"^    ", "", block[0], flags=re.MULTILINE))
    config = load_config(path)
    assert config.profile == "random"
    assert config.seed == 7
    assert len(config.injections) == 1
