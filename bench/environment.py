"""Where a run was made: file system, device, kernel, CPU, versions."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kifa
from bench.peers import PEERS, installed_version


def describe(directory: Path, peers: Sequence[str], command: Sequence[str]) -> dict[str, Any]:
    """Return the header of a run in ``directory``."""
    file_system = mount_of(directory)
    return {
        "kifa": kifa.__version__,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(command),
        "file_system": file_system["type"],
        "mount_options": file_system["options"],
        "device": _device(directory, file_system["source"]),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20,
        "python": sys.version.split()[0],
        "peers": {name: installed_version(name) for name in peers},
        "not_installed": [name for name in PEERS if installed_version(name) is None],
        "load_before": os.getloadavg()[0],
    }


def mount_of(directory: Path) -> dict[str, str]:
    """Return type, source and options of the mount that holds ``directory``."""
    device = directory.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    found = {"type": "unknown", "source": "unknown", "options": ""}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, source, *_) = left.split(), right.split(" ")
        if fields[2] == wanted:
            found = {"type": kind, "source": _unescape(source), "options": fields[5]}
    return found


def _unescape(text: str) -> str:
    return re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), text)


def _device(directory: Path, source: str) -> str:
    device = directory.stat().st_dev
    path = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not path.exists():
        return source
    queue = path / "queue" if (path / "queue").exists() else path.resolve().parent / "queue"
    kind = "rotating" if _read(queue / "rotational") == "1" else "not rotating"
    return f"{source}, {kind}, {_read(queue / 'write_cache') or 'cache unknown'}"


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _cpu() -> str:
    match = re.search(r"^model name\s*:\s*(.*)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    return match[1] if match else platform.processor() or "unknown"
