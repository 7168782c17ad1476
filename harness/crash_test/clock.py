"""A wall clock of the target's own, that can be set: libfaketime, below any program."""

from __future__ import annotations

from pathlib import Path

from harness.crash_test.errors import CrashTestError

# Where glibc has what libfaketime shares between a process and its children: it cannot be told to share nothing.
SHARED_MEMORY = Path("/dev/shm")
FAKETIME_LIBRARIES = ("*/faketime/libfaketimeMT.so.1", "faketime/libfaketimeMT.so.1")


def set_clock(work: Path, offset_s: int) -> None:
    """Let the clock of a target started with `clock_environment` be off by so much."""
    # In one step: the target reads it at any time.
    new = work / "clock.new"
    new.write_text(f"{offset_s:+d}s\n")
    new.rename(work / "clock")


def clock_environment(work: Path) -> dict[str, str]:
    """Return the variables that give a target a clock that can be set.

    Raises:
        CrashTestError: libfaketime is not installed.
    """
    found = [path for glob in FAKETIME_LIBRARIES for path in Path("/usr/lib").glob(glob)]
    if not found:
        raise CrashTestError("--faults clock needs libfaketime: install the package faketime")
    set_clock(work, 0)
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(work / "clock"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def remove_clock(pid: int) -> None:
    """Remove what a target with a clock of its own leaves in shared memory if it is killed."""
    for name in (f"faketime_shm_{pid}", f"sem.faketime_sem_{pid}"):
        (SHARED_MEMORY / name).unlink(missing_ok=True)
