"""Bad days of the crash test: whatever happens, a clear message, the right exit code, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.crash_test.results import ExitCode

COMMAND = [sys.executable, "-m", "harness.crash_test"]
DEADLINE_S = 60.0


def processes_below(directory: Path) -> list[str]:
    """Command lines that name the directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if str(directory) in words and "pytest" not in words.split(" ", 1)[0]:
            found.append(words)
    return found


def is_mounted_below(directory: Path) -> bool:
    return str(directory) in Path("/proc/self/mounts").read_text()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts the crash test in ``tmp_path/data``."""
    begun: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str) -> subprocess.Popen[bytes]:
        begun.append(
            subprocess.Popen(
                [*COMMAND, "-d", str(tmp_path / "data"), "--seed", "1", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.wait(DEADLINE_S)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()
    wait_until(lambda: not is_mounted_below(tmp_path))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, ExitCode.INTERRUPTED),
        (signal.SIGTERM, ExitCode.TERMINATED),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
@pytest.mark.parametrize("lines", [1, 3])
def test_a_signal_leaves_nothing_behind(
    start: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
    lines: int,
) -> None:
    """After the first line it sets up, later it is in the middle of cycles."""
    process = start("--cycles", "1000", "--feed-seconds", "0.1", "--source", "mixed")
    assert process.stdout is not None
    for _ in range(lines):
        assert process.stdout.readline()
    process.send_signal(number)
    assert process.wait(DEADLINE_S) == code
    wait_until(lambda: not is_mounted_below(tmp_path) and not processes_below(tmp_path))
    if number != signal.SIGKILL:
        assert not (tmp_path / "data").exists()


def test_what_a_killed_run_left_does_not_hinder_the_next(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    first = start("--cycles", "1000", "--feed-seconds", "0.1")
    assert first.stdout is not None
    first.stdout.readline()
    first.stdout.readline()
    first.kill()
    first.wait(DEADLINE_S)
    second = start("--cycles", "1", "--feed-seconds", "0.1")
    _, errors = second.communicate(timeout=DEADLINE_S)
    assert second.returncode == ExitCode.PASSED, errors


def test_a_directory_is_used_by_one_run(start: Callable[..., subprocess.Popen[bytes]]) -> None:
    first = start("--cycles", "1000", "--feed-seconds", "0.1")
    assert first.stdout is not None
    first.stdout.readline()
    first.stdout.readline()
    second = start("--cycles", "1")
    _, errors = second.communicate(timeout=DEADLINE_S)
    assert second.returncode == ExitCode.MISSING
    assert b"another run uses it" in errors


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--kifa-bin", "/nowhere/kifa"], ExitCode.MISSING, b"cannot be started"),
        (["--kifa-bin", "/bin/false"], ExitCode.MISSING, b"the target does not start"),
        (["--power", "sigkill", "--faults", "eio"], ExitCode.USAGE, b"lazyfs"),
        (["--target", "sqlite", "--source", "tcp"], ExitCode.USAGE, b"stdin"),
        (["--cycles", "0"], ExitCode.USAGE, b"cycles"),
        (["--lazyfs-root", "/proc"], ExitCode.USAGE, b"--lazyfs-fifo"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    start: Callable[..., subprocess.Popen[bytes]],
    tmp_path: Path,
    arguments: list[str],
    code: ExitCode,
    message: bytes,
) -> None:
    process = start(*arguments)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == code, errors
    assert message in errors
    assert b"Traceback" not in errors
    assert not (tmp_path / "data").exists()


def test_a_target_that_never_gets_ready_is_not_waited_for_without_end(
    start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    idle = tmp_path / "idle"
    idle.write_text("#!/bin/sh\nexec sleep 600\n")
    idle.chmod(0o755)
    process = start("--kifa-bin", str(idle), "--patience-seconds", "1")
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == ExitCode.MISSING
    assert b"not ready after 1 s" in errors
    assert os.listdir(tmp_path) == ["idle"]  # noqa: PTH208
