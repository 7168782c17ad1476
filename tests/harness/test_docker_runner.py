"""The docker runner without an engine: what it says then, and its generator. ci/crash-test-docker runs it with one."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.crash_test.docker.stand import RelayedSender
from harness.crash_test.workload import lines

DEADLINE_S = 60.0
SEED = 4711


def crash_test(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.crash_test", "--runner", "docker", "-n", "1", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )


def message_of(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a run ends with which had nothing to run on."""
    (line,) = result.stderr.splitlines()
    assert line.startswith("kifa-crash-test: ")
    return line


def test_no_engine(tmp_path: Path) -> None:
    address = f"unix://{tmp_path}/docker.sock"
    result = crash_test(DOCKER_HOST=address)
    assert result.returncode == 4
    assert f"no Docker engine answers at {address}" in message_of(result)


def test_no_permission(tmp_path: Path) -> None:
    """As somebody else than root, to whom the socket of the engine is closed."""
    tmp_path.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(str(tmp_path / "docker.sock"))
        engine.listen()
        (tmp_path / "docker.sock").chmod(0o600)
        script = (
            "import os, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "from harness.crash_test.docker.engine import Engine\n"
            "from harness.crash_test.errors import CrashTestError\n"
            "try: Engine()\n"
            "except CrashTestError as error: print(error)"
        )
        if os.getuid() != 0:
            pytest.fail("needs root, to become somebody else")
        result = subprocess.run(
            [sys.executable, "-c", f"import docker, harness.crash_test.docker.engine\n{script}"],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            env={**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/docker.sock"},
        )
    assert "no permission to use the Docker engine" in result.stdout, result.stderr


def test_no_docker_package(tmp_path: Path) -> None:
    (tmp_path / "docker.py").write_text("raise ImportError('not installed')\n")
    result = crash_test(PYTHONPATH=str(tmp_path))
    assert result.returncode == 4
    assert "pip install 'kifa[crash-test]'" in message_of(result)


def test_a_mount_of_somebody_else_is_a_contradiction(tmp_path: Path) -> None:
    (tmp_path / "fifo").touch()
    result = crash_test("--lazyfs-root", str(tmp_path), "--lazyfs-fifo", str(tmp_path / "fifo"))
    assert result.returncode == 2
    assert "mount of its own" in message_of(result)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def fifo(path: Path, stack: ExitStack) -> int:
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    stack.callback(os.close, fd)
    return fd


def relay(
    tmp_path: Path, stack: ExitStack, *where: str
) -> tuple[RelayedSender, subprocess.Popen[bytes]]:
    """Start a relay between FIFOs, as the container does."""
    commands, answers = fifo(tmp_path / "in", stack), fifo(tmp_path / "out", stack)
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.crash_test.docker.relay", str(SEED), "s", "light", *where],
        stdin=(tmp_path / "in").open("rb"),
        stdout=(tmp_path / "out").open("wb"),
    )
    stack.callback(process.wait, DEADLINE_S)
    stack.callback(process.send_signal, signal.SIGKILL)
    return RelayedSender("s", lines(SEED, "s", heavy=False), commands, answers), process


def confirmed(sender: RelayedSender, count: int) -> list[tuple[int, bytes]]:
    """Wait for so many answers."""
    found: list[tuple[int, bytes]] = []
    end = time.monotonic() + DEADLINE_S
    while len(found) < count:
        assert select.select([sender.in_fd], [], [], max(0.0, end - time.monotonic()))[0]
        found += sender.receive()
    return found


def acknowledge(received: bytes, first: int) -> bytes:
    return b"".join(b"ACK %d\n" % (first + n) for n in range(received.count(b"\n")))


def test_the_generator_inside_sends_the_lines_that_are_known_outside(
    tmp_path: Path, stack: ExitStack
) -> None:
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(str(tmp_path / "lines"))
    listener.listen()
    listener.settimeout(DEADLINE_S)
    sender, _ = relay(tmp_path, stack, "unix", str(tmp_path / "lines"))
    sender.send(3)
    sender.send(200)
    connection, _ = listener.accept()
    stack.callback(connection.close)
    connection.settimeout(DEADLINE_S)
    received = b""
    while received.count(b"\n") < 203:
        received += connection.recv(1 << 16)
    assert received.splitlines() == sender.sent
    connection.sendall(acknowledge(received, 1))
    assert [lsn for lsn, _ in confirmed(sender, 203)] == list(range(1, 204))
    assert sender.unanswered == 0
    sender.send(1)
    assert connection.recv(1 << 16) == sender.sent[-1] + b"\n"
    sender.drop_unwritten()
    assert sender.unanswered == 1


def test_the_generator_feeds_standard_input(tmp_path: Path, stack: ExitStack) -> None:
    into, out = fifo(tmp_path / "target.in", stack), fifo(tmp_path / "target.out", stack)
    where = ("stdin", str(tmp_path / "target.in"), str(tmp_path / "target.out"))
    sender, _ = relay(tmp_path, stack, *where)
    sender.send(5)
    received = b""
    while received.count(b"\n") < 5:
        assert select.select([into], [], [], DEADLINE_S)[0]
        received += os.read(into, 1 << 16)
    os.write(out, acknowledge(received, 7))
    assert confirmed(sender, 5) == list(enumerate(sender.sent, 7))
