"""The unit: valid, hardened, and the daemon works within what it allows.

systemd itself need not run: the system calls are compared with the filter, and memory is denied as systemd does it.
"""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kifa.cli._plain import parse
from kifa.config import SETTINGS
from kifa.errors import ExitCode
from tests.daemons import DEADLINE_SECONDS, data_of, read_until
from tests.test_daemon_sockets import receive

ROOT = Path(__file__).parent.parent
UNIT = ROOT / "systemd" / "kifa.service"
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1


def values_of(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(), re.MULTILINE)


def command_of(runtime_directory: Path) -> list[str]:
    (line,) = values_of("ExecStart")
    words = shlex.split(line.replace("%t", str(runtime_directory)))
    assert words[0] == "/usr/local/bin/kifa"
    return [sys.executable, "-m", "kifa", *words[1:]]


def check(unit: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "ci" / "check-systemd-unit", unit], capture_output=True, text=True, check=False
    )


def test_the_unit_is_valid_and_hardened() -> None:
    found = check(UNIT)
    assert found.returncode == 0, found.stderr
    rating = re.search(r"Overall exposure level for kifa.service: ([\d.]+)", found.stdout)
    assert rating is not None
    assert float(rating[1]) <= 1.5


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"^UMask=", "UMaskk="),
        (r"^Type=notify$", "Type=notifying"),
        (r"^(SystemCallFilter|CapabilityBoundingSet|NoNewPrivileges|PrivateUsers)=.*\n", ""),
    ],
)
def test_a_worse_unit_is_noticed(pattern: str, replacement: str, tmp_path: Path) -> None:
    worse, count = re.subn(pattern, replacement, UNIT.read_text(), flags=re.MULTILINE)
    assert count > 0
    (tmp_path / "kifa.service").write_text(worse)
    found = check(tmp_path / "kifa.service")
    assert found.returncode != 0
    assert found.stderr


@contextmanager
def started_as_the_unit_does(
    tmp_path: Path, *, before: tuple[str, ...] = (), options: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket, Path]]:
    """Its command line, with sockets of its own, denied memory that is writable and executable."""
    runtime = tmp_path / "run"
    (runtime / "kifa").mkdir(parents=True)
    command = [word.replace(":5514", ":0") for word in command_of(runtime)]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(DEADLINE_SECONDS)
        manager.bind(str(tmp_path / "notify"))
        process = subprocess.Popen(
            [*before, *command, *options],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=os.environ
            | {
                "KIFA_DATA_DIR": str(tmp_path / "state"),
                "NOTIFY_SOCKET": str(tmp_path / "notify"),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            preexec_fn=deny_executable_memory,
        )
        with process:
            try:
                yield process, manager, runtime / "kifa" / "socket"
            finally:
                process.kill()


def deny_executable_memory() -> None:
    """As MemoryDenyWriteExecute does. Kernels before 6.3 do not know it."""
    ctypes.CDLL(None).prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)


def await_state(manager: socket.socket, wanted: bytes) -> None:
    while wanted not in manager.recv(4096):
        pass


def test_its_command_line_is_a_notifying_daemon(tmp_path: Path) -> None:
    assert values_of("Type") == ["notify"]
    followed = tmp_path / "followed"
    followed.write_text("a line of a file\n")
    with started_as_the_unit_does(tmp_path, options=("--file", str(followed))) as started:
        process, manager, path = started
        await_state(manager, b"READY=1")
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.sendall(b"x\n")
            assert receive(peer, 4).startswith(b"ACK ")
        process.send_signal(signal.SIGTERM)
        await_state(manager, b"STOPPING=1")
        assert process.wait(DEADLINE_SECONDS) == ExitCode.TERMINATED
    assert set(data_of(tmp_path / "state")) == {b"x", b"a line of a file"}


def test_how_it_ends_decides_whether_it_starts_again() -> None:
    good = {int(code) for line in values_of("SuccessExitStatus") for code in line.split()}
    assert good == {ExitCode.INTERRUPTED, ExitCode.TERMINATED}
    assert values_of("RestartPreventExitStatus") == [str(int(ExitCode.USAGE))]


def test_its_variables_and_options_exist(tmp_path: Path) -> None:
    assert values_of("Environment") == ["KIFA_DATA_DIR=%S/kifa"]
    parsed = parse(command_of(tmp_path)[3:])
    assert parsed is not None
    assert parsed[0].name == "daemon"
    assert {name for name, value in parsed[1].items() if value} <= set(SETTINGS)


def test_the_daemon_needs_no_system_call_that_the_filter_refuses(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    followed = tmp_path / "followed"
    followed.write_text("a line\n" * 1000)
    options = ("--file", str(followed), "--udp", "127.0.0.1:0")
    options += ("--segment-size-mib", "1", "--memtable-threshold-mib", "1")
    before = ("strace", "-f", "-qq", "-o", str(trace))
    with started_as_the_unit_does(tmp_path, before=before, options=options) as started:
        process, manager, path = started
        await_state(manager, b"READY=1")
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.sendall((b"x" * 999 + b"\n") * 3000)  # rotations, a flush
            answers = b""
            while answers.count(b"\n") < 3000:
                answers += receive(peer, 1)
        followed.rename(tmp_path / "followed.1")
        followed.write_text("another line\n")
        daemon = int(re.findall(r"^(\d+) ", trace.read_text(), re.MULTILINE)[0])
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM):
            os.kill(daemon, number)
        assert process.wait(DEADLINE_SECONDS) == ExitCode.TERMINATED
        read_until(process.stderr, b"stopped")
    calls = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", trace.read_text(), re.MULTILINE))
    assert {"fdatasync", "inotify_add_watch", "execve"} <= calls
    assert calls - allowed_calls() == set()


def allowed_calls() -> set[str]:
    allowed: set[str] = set()
    for line in values_of("SystemCallFilter"):
        named = set().union(*(calls_in(group) for group in line.lstrip("~").split()))
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed | {"exit", "exit_group", "rt_sigreturn"}


def calls_in(group: str) -> set[str]:
    if not group.startswith("@"):
        return {group}
    found = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", group],
        capture_output=True,
        text=True,
        check=True,
    )
    names = [line.strip() for line in found.stdout.splitlines()[1:]]
    return set().union(*(calls_in(name) for name in names if name and not name.startswith("#")))
