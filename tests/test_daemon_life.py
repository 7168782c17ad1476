"""The life of the daemon: signals, the end of its input and output, the service manager, disks that fail."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import kifa
from tests.daemons import (
    DEADLINE_SECONDS,
    data_of,
    read_until,
    running,
    start,
    unread_bytes,
    wait_for,
)
from tests.lazyfs.conftest import MountFactory, mount

__all__ = ["mount"]


def state_of(process: subprocess.Popen[bytes]) -> str:
    """``S``: the main thread waits."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def pipe_end(process: subprocess.Popen[bytes]) -> int:
    assert process.stdin is not None
    return process.stdin.fileno()


# ---- signals ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_what_waits_in_the_pipe_is_stored_and_answered_at_a_signal(
    number: int, code: int, tmp_path: Path
) -> None:
    with running(tmp_path, "--stdin", "--ack") as process:
        process.send_signal(signal.SIGSTOP)
        os.write(pipe_end(process), b"one\ntwo\nhalf")
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        assert process.wait(DEADLINE_SECONDS) == code
        assert process.stdout is not None
        assert process.stdout.read() == b"ACK 1\nACK 2\n"
    assert data_of(tmp_path) == [b"one", b"two"]


def test_sigint_ends_the_daemon_also_where_the_parent_ignores_it(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "os.execv(sys.executable, [sys.executable, '-m', 'kifa', *sys.argv[1:]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "daemon", "-d", str(tmp_path), "--stdin"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        read_until(process.stderr, b"ready")
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_SECONDS) == 130
    finally:
        process.kill()
        process.communicate()


def test_a_second_sigint_leaves_at_once_though_somebody_is_still_to_be_answered(
    tmp_path: Path,
) -> None:
    with running(tmp_path, "--stdin", "--ack") as process:
        assert process.stdout is not None
        os.write(pipe_end(process), b"x\n" * 30_000)
        wait_for(lambda: unread_bytes(process.stdout) > 60_000)  # nobody reads: the pipe is full
        process.send_signal(signal.SIGINT)
        read_until(process.stderr, b"stopping")
        process.send_signal(signal.SIGINT)
        # As the shell shows it: 130.
        assert process.wait(DEADLINE_SECONDS) == -signal.SIGINT
    assert data_of(tmp_path) == [b"x"] * 30_000


def test_no_signal_is_lost_in_a_flood_of_others(tmp_path: Path) -> None:
    with running(tmp_path, "--stdin") as process:
        process.send_signal(signal.SIGSTOP)
        for _ in range(2000):
            for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
                os.kill(process.pid, number)
        process.send_signal(signal.SIGCONT)
        for _ in range(2000):
            for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
                os.kill(process.pid, number)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE_SECONDS) == 143


def test_datagrams_that_wait_are_stored_when_the_daemon_ends_among_many_signals(
    tmp_path: Path,
) -> None:
    with start(tmp_path, "--udp", "[::1]:0") as process:
        try:
            ready = read_until(process.stderr, b"ready").decode()
            found = re.search(r"', (\d+), 0, 0\)", ready)
            assert found is not None
            process.send_signal(signal.SIGSTOP)
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                for number in range(500):
                    sender.sendto(b"%d" % number, ("::1", int(found[1])))
            for _ in range(500):
                os.kill(process.pid, signal.SIGHUP)
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGCONT)
            _, rest = process.communicate(timeout=DEADLINE_SECONDS)
            assert process.returncode == 143
            assert b"0 lost" in rest
        finally:
            process.kill()
    assert data_of(tmp_path) == [b"%d" % number for number in range(500)]


# ---- the end of input, output that fails --------------------------------------------------------------------------


def test_a_slow_reader_gets_every_answer_after_the_end_of_input(tmp_path: Path) -> None:
    with running(tmp_path, "--stdin", "--ack") as process:
        assert process.stdin is not None
        process.stdin.write(b"x\n" * 50_000)
        process.stdin.close()
        process.stdin = None
        wait_for(lambda: len(list(kifa.reader(tmp_path).entries(from_lsn=50_000))))
        wait_for(lambda: state_of(process) == "S")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2.5)  # it waits for the reader of its answers, however slow that is
        out, _ = process.communicate(timeout=DEADLINE_SECONDS)
        assert out == b"".join(b"ACK %d\n" % lsn for lsn in range(1, 50_001))
        assert process.returncode == 0


def in_shell(script: str, store: Path) -> list[str]:
    daemon = [sys.executable, "-m", "kifa", "daemon", "-d", str(store), "--stdin", "--ack"]
    return ["sh", "-c", script, "sh", *daemon]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("output", ["/dev/full", "closed"])
def test_answers_that_cannot_be_given_are_an_error_and_every_line_is_stored(
    unbuffered: str, output: str, tmp_path: Path
) -> None:
    result = subprocess.run(
        in_shell('"$@" >&-' if output == "closed" else f'"$@" >{output}', tmp_path),
        input=b"a\nb\n",
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    last = result.stderr.splitlines()[-1]
    assert result.returncode == 1
    assert last.startswith(b"kifa: no answers: standard output cannot be written: ")
    assert data_of(tmp_path) == [b"a", b"b"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "command", ["query", "query --format csv", "stats", "verify", "config", "--help"]
)
def test_every_command_says_in_one_line_that_its_output_cannot_be_written(
    unbuffered: str, command: str, tmp_path: Path
) -> None:
    with kifa.open(tmp_path) as log:
        log.append(b"x")
    where = [] if command == "--help" else ["-d", str(tmp_path)]
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        result = subprocess.run(
            [sys.executable, "-m", "kifa", *command.split(), *where],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            timeout=DEADLINE_SECONDS,
            check=False,
        )
    wanted = b"kifa: standard output cannot be written: No space left on device\n"
    assert (result.returncode, result.stderr) == (1, wanted)


def test_a_closed_standard_descriptor_is_never_a_file_of_the_store(tmp_path: Path) -> None:
    result = subprocess.run(
        in_shell('"$@" <&- >&- 2>&-', tmp_path),
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert result.returncode == 8  # standard input could not be read
    assert data_of(tmp_path) == []


# ---- the service manager -------------------------------------------------------------------------------------------


@contextmanager
def service_manager(path: Path) -> Iterator[tuple[socket.socket, dict[str, str]]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(DEADLINE_SECONDS)
        yield manager, {**os.environ, "NOTIFY_SOCKET": str(path)}


def await_state(manager: socket.socket, wanted: str) -> list[str]:
    states: list[str] = []
    while not any(state.startswith(wanted) for state in states):
        states += manager.recv(4096).decode().splitlines()
    return states


def is_silent(manager: socket.socket) -> bool:
    """Whether its time-out comes before many states do; one may have been on its way."""
    try:
        for _ in range(10):
            manager.recv(4096)
    except TimeoutError:
        return True
    return False


def test_the_service_manager_is_told_ready_after_recovery_and_stopping(tmp_path: Path) -> None:
    with (
        service_manager(tmp_path / "notify") as (manager, environment),
        running(tmp_path / "store", "--stdin", env=environment) as process,
    ):
        states = await_state(manager, "READY=1")
        assert states[0] == "STATUS=recovering"
        process.send_signal(signal.SIGTERM)
        await_state(manager, "STOPPING=1")
        assert process.wait(DEADLINE_SECONDS) == 143


def test_a_service_manager_that_has_gone_does_not_end_the_daemon(tmp_path: Path) -> None:
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "nobody")}
    with running(tmp_path / "store", "--stdin", "--ack", env=environment) as process:
        os.write(pipe_end(process), b"x\n")
        read_until(process.stdout, b"ACK 1\n")


def test_the_watchdog_is_fed_only_while_the_disk_takes_what_is_written(
    tmp_path: Path, mount: MountFactory
) -> None:
    mounted = mount()
    with service_manager(tmp_path / "notify") as (manager, environment):
        environment["WATCHDOG_USEC"] = "300000"
        with running(mounted.path / "store", "--stdin", "--ack", env=environment) as process:
            await_state(manager, "WATCHDOG=1")  # while idle
            os.write(pipe_end(process), b"x\n")
            read_until(process.stdout, b"ACK 1\n")
            await_state(manager, "WATCHDOG=1")
            mounted.process.send_signal(signal.SIGSTOP)  # the disk hangs
            try:
                os.write(pipe_end(process), b"y\n")
                manager.settimeout(2.0)
                assert is_silent(manager)
            finally:
                mounted.process.send_signal(signal.SIGCONT)
            manager.settimeout(DEADLINE_SECONDS)
            read_until(process.stdout, b"ACK 2\n")
            await_state(manager, "WATCHDOG=1")


# ---- disks ---------------------------------------------------------------------------------------------------------


def test_after_a_sync_that_fails_nothing_is_acknowledged_and_the_next_start_recovers(
    mount: MountFactory,
) -> None:
    mounted = mount()
    store = mounted.path / "store"
    with running(store, "--stdin", "--ack") as process:
        os.write(pipe_end(process), b"one\n")
        read_until(process.stdout, b"ACK 1\n")
        mounted.command("fail", op="fdatasync", path="*.wal", forever=True)
        os.write(pipe_end(process), b"two\n")
        out, errors = process.communicate(timeout=DEADLINE_SECONDS)
        assert (process.returncode, out) == (6, b"")
        last = errors.splitlines()[-1]
        assert last.startswith(b"kifa: ")
        assert b"sync" in last
    mounted.command("clear")
    with running(store, "--stdin", "--ack") as process:
        os.write(pipe_end(process), b"three\n")
        answer = read_until(process.stdout, b"\n")
    assert data_of(store) in ([b"one", b"three"], [b"one", b"two", b"three"])
    assert answer == b"ACK %d\n" % len(data_of(store))


def test_a_read_only_file_system_is_said_at_the_start(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", tmp_path], check=True)
    try:
        process = start(tmp_path / "store", "--stdin")
        out, errors = process.communicate(b"x\n", DEADLINE_SECONDS)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert (process.returncode, out) == (9, b"")
    assert errors.count(b"\n") == 1
    assert b"Read-only file system" in errors


def test_two_daemons_never_write_one_store(tmp_path: Path) -> None:
    with running(tmp_path, "--stdin") as process:
        other = start(tmp_path, "--stdin")
        _, errors = other.communicate(b"x\n", DEADLINE_SECONDS)
        assert other.returncode == 5
        assert errors.count(b"\n") == 1
        process.communicate(b"y\n", DEADLINE_SECONDS)
    assert data_of(tmp_path) == [b"y"]


def test_nothing_wakes_up_while_nothing_happens(tmp_path: Path) -> None:
    sources = ("--stdin", "--tcp", "127.0.0.1:0", "--udp", "127.0.0.1:0", "--unix", tmp_path / "s")
    files = ("--file", tmp_path / "app.log", "--file", tmp_path / "*.txt")
    (tmp_path / "app.log").write_bytes(b"line\n")
    with running(tmp_path / "store", *sources, *files) as process:
        wait_for(lambda: (tmp_path / "store/wal").exists() and data_of(tmp_path / "store"))
        peer = socket.socket(socket.AF_UNIX)
        peer.connect(str(tmp_path / "s"))
        peer.sendall(b"x\n")
        wait_for(lambda: len(data_of(tmp_path / "store")) == 2)

        def switches() -> int:
            found = 0
            for status in Path(f"/proc/{process.pid}/task").glob("*/status"):
                found += sum(
                    int(line.split()[1])
                    for line in status.read_text().splitlines()
                    if "ctxt_switches" in line
                )
            return found

        def is_quiet() -> bool:
            before = switches()
            try:
                process.wait(1.0)
            except subprocess.TimeoutExpired:
                return switches() == before
            raise AssertionError("it ended")

        wait_for(is_quiet)
        before = switches()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3.0)
        assert switches() == before
        peer.close()
