"""Instructions of fixed workloads, counted by callgrind: the same on a quiet and on a busy machine."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.results import SCHEMA, RunFileError

KIND = "instructions"
# Libraries choose code by what the processor can do and how large its caches are: here the same everywhere.
TUNABLES = (
    "glibc.cpu.hwcaps=-AVX2_Usable,-AVX_Usable,-AVX2,-AVX,-ERMS,-FSRM,-AVX_Fast_Unaligned_Load"
    ":glibc.cpu.x86_non_temporal_threshold=0x1000000:glibc.cpu.x86_rep_movsb_threshold=0x1000000"
)
DEADLINE_SECONDS = 600
_NAME = re.compile(r"^desc: Trigger: Client Request: (\w+)$", re.MULTILINE)
_TOTAL = re.compile(r"^totals: (\d+)$", re.MULTILINE)


class CannotCountError(Exception):
    """Instructions cannot be counted here, and why."""


def count_instructions(parent: Path | None = None) -> dict[str, float]:
    """Return the instructions for each entry of every workload.

    Raises:
        CannotCountError: valgrind is missing, or it or the workloads failed.
    """
    if shutil.which("valgrind") is None:
        raise CannotCountError("valgrind is not installed: ci/install-system-packages does it")
    if platform.machine() != "x86_64":
        raise CannotCountError(f"instructions are counted on x86_64 only, not {platform.machine()}")
    with tempfile.TemporaryDirectory(prefix="kifa-bench-", dir=parent) as name:
        directory = Path(name)
        work = directory / "work"
        work.mkdir()
        result = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", "--instr-atstart=no", "--quiet"),
                f"--callgrind-out-file={directory / 'out'}",
                *(sys.executable, "-m", "bench.workloads", str(work)),
            ],
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
            env=_environment(),
        )
        if result.returncode:
            lines = result.stderr.strip().splitlines() or ["it did not say why"]
            raise CannotCountError(f"the workloads failed under valgrind: {lines[-1]}")
        entries = {name: int(count) for name, count in map(str.split, result.stdout.splitlines())}
        counted = dict(map(_read_dump, sorted(directory.glob("out.*"))))
    if counted.keys() != entries.keys():
        raise CannotCountError(f"callgrind counted {sorted(counted)}, not {sorted(entries)}")
    return {name: counted[name] / entries[name] for name in entries}


def _environment() -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("KIFA_")}
    return kept | {"PYTHONHASHSEED": "0", "GLIBC_TUNABLES": TUNABLES, "KIFA_LOG": "error"}


def _read_dump(path: Path) -> tuple[str, int]:
    content = path.read_text()
    name, total = _NAME.search(content), _TOTAL.search(content)
    if name is None or total is None:
        raise CannotCountError(f"{path.name} of callgrind is not understood")
    return name[1], int(total[1])


def to_json(counts: dict[str, float]) -> dict[str, Any]:
    """Return plain data, with what the counts depend on."""
    return {
        "schema": SCHEMA,
        "kind": KIND,
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "instructions_per_entry": {name: round(count, 1) for name, count in counts.items()},
    }


def from_json(data: dict[str, Any]) -> dict[str, float]:
    """Return the counts that `to_json` described.

    Raises:
        RunFileError: they are not there.
    """
    counts = data.get("instructions_per_entry")
    if data.get("schema") != SCHEMA or not isinstance(counts, dict):
        raise RunFileError("the file holds no counts of instructions")
    return {str(name): float(count) for name, count in counts.items()}
