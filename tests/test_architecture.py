"""The shape of the code: floors, towers, sizes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ARCHITECTURE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
FLOOR_ROW = re.compile(r"^\| (\d) \| (.*) \|$", re.MULTILINE)
TOWERS = ("kifa", "lazyfs", "harness")


def floors() -> dict[str, int]:
    """Module patterns of docs/ARCHITECTURE.md to their floor."""
    return {
        name.removesuffix(".pxd").removesuffix("/"): int(floor)
        for floor, names in FLOOR_ROW.findall(ARCHITECTURE)
        for name in re.findall(r"`([^`]+)`", names)
    }


def floor_of(module: str) -> int | None:
    for pattern, floor in floors().items():
        if re.fullmatch(pattern.replace("*", ".*"), module):
            return floor
    return None


def imports_of(path: Path) -> set[str]:
    """Names of modules below `kifa` that the source imports at its top level."""
    text = path.read_text()
    if path.suffix == ".pyx":
        found = re.findall(r"^from kifa\.?(\w*) c?import (\w+)", text, re.MULTILINE)
        return {module or name for module, name in found}
    names = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "kifa":
                names |= {alias.name for alias in node.names}
            elif node.module.startswith("kifa."):
                names.add(node.module.split(".")[1])
    return names


SOURCES = sorted([*(ROOT / "kifa").glob("*.py"), *(ROOT / "kifa").glob("*.pyx")])


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_module_imports_no_higher_floor(path: Path) -> None:
    own = floor_of(path.stem)
    if path.stem in ("__init__", "__main__"):
        return
    assert own is not None, f"docs/ARCHITECTURE.md gives {path.name} no floor"
    for name in imports_of(path):
        floor = floor_of(name)
        assert floor is None or floor <= own, f"{path.name} (floor {own}) imports {name} ({floor})"


# A user's program that has Kifa in it. The harness starts it, and nobody imports it.
APPLICATION = ROOT / "harness/crash_test/programs/embedding.py"


@pytest.mark.parametrize("tower", TOWERS)
def test_towers_do_not_import_each_other(tower: str) -> None:
    others = "|".join(name for name in TOWERS if name != tower)
    pattern = re.compile(rf"^\s*(?:from|import) ({others})\b", re.MULTILINE)
    for path in [*(ROOT / tower).rglob("*.py"), *(ROOT / tower).rglob("*.pyx")]:
        if path == APPLICATION:
            continue
        assert "programs.embedding import" not in path.read_text()
        assert not pattern.search(path.read_text()), path


# Each costs a start of any command time, and a daemon at rest memory: see docs/decisions/0009-what-is-loaded.md.
HEAVY = [
    "asyncio",
    "click",
    "compression",
    "crc32c",
    "dataclasses",
    "docker",
    "encodings.idna",
    "hashlib",
    "http",
    "inspect",
    "rich",
    "secrets",
    "sqlite3",
    "tomllib",
    "typing",
]


@pytest.mark.parametrize(
    "loaded",
    [
        "kifa",
        "kifa.cli.query, kifa.query, kifa.export, kifa.sstable",
        "kifa.cli.stats, kifa.cli.verify, kifa.cli.config",
        "kifa.cli.daemon, kifa.daemon, kifa.sources.stdin, kifa.sources.stream, kifa.sources.udp",
        "kifa.cli.daemon, kifa.daemon, kifa.sources.tail",
    ],
)
def test_little_is_loaded(loaded: str) -> None:
    # Without `site`: an editable installation and the distribution's hooks load some of these themselves.
    script = f"import sys; sys.path[:] = {sys.path}; import {loaded}; print(set({HEAVY}) & {{*sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-S", "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"
