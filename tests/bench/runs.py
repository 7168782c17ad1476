"""Runs for tests: one real and tiny, and some that are made up to be judged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.results import FLOOR, KIFA, Measurement, Run

HEADER: dict[str, Any] = {
    "kifa": "0.1.0",
    "date": "2026-01-29T12:00:00+00:00",
    "command": "kifa-bench all",
    "file_system": "ext4",
    "mount_options": "rw",
    "device": "/dev/vda, not rotating, write back",
    "kernel": "Linux 6.1 x86_64",
    "cpu": "a <CPU> & more",
    "cores": 2,
    "memory_mib": 2048,
    "python": "3.11.7",
    "peers": {"sqlite": "3.40.1", "plain": "os.write"},
    "not_installed": ["lmdb"],
    "load_before": 0.1,
}


def bench(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``kifa-bench``."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )


def made_up(
    name: str = "append/cautious/200/1",
    kifa: tuple[float, ...] = (95.0, 96.0, 94.0),
    floor: tuple[float, ...] = (100.0, 100.0, 100.0),
    **peers: tuple[float, ...],
) -> Measurement:
    """A measurement with these rounds, and latencies to match."""
    one = Measurement(name, f"measurement {name}", "entries/s")
    for subject, values in ((KIFA, kifa), (FLOOR, floor), *peers.items()):
        for value in values:
            if value:
                one.add(subject, value)
                one.add_latencies(subject, [1 / value] * 10)
    one.parameters = {"size_bytes": 200, "mode": "cautious", "group": 1, "threads": 1}
    return one


def run_of(*measurements: Measurement) -> Run:
    """A run of these."""
    return Run(dict(HEADER), list(measurements))


def save(path: Path, *measurements: Measurement) -> Path:
    """Write a run of these to a file."""
    run_of(*measurements).save(path)
    return path
