"""Senders that misbehave: slow, silent, half-closing, vanishing, deaf, and too many of them."""

from __future__ import annotations

import contextlib
import re
import resource
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import DEADLINE_SECONDS, data_of, read_until, running, wait_for
from tests.test_daemon_sockets import listening, receive


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port), timeout=DEADLINE_SECONDS)


def is_cut_off(peer: socket.socket) -> bool:
    """Whether the daemon has closed the connection; what it still sends is not looked at."""
    try:
        while peer.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_one_byte_at_a_time_with_binary_and_empty_lines(tmp_path: Path) -> None:
    data = b"\n\x00\xff\r\n\r\r\nlast\xf0"
    with (
        listening(tmp_path, "--tcp", "127.0.0.1:0", "--ack") as (_, (port,)),
        connect(port) as peer,
    ):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in data:
            peer.sendall(bytes([byte]))
        peer.shutdown(socket.SHUT_WR)
        wanted = b"ACK 1\nACK 2\nACK 3\nACK 4\n"
        assert receive(peer, len(wanted)) == wanted
        assert peer.recv(1) == b""
    assert data_of(tmp_path) == [b"", b"\x00\xff", b"\r", b"last\xf0"]


def test_a_sender_that_vanishes_within_a_line_harms_nobody(tmp_path: Path) -> None:
    with (
        listening(tmp_path, "--tcp", "127.0.0.1:0", "--ack") as (_, (port,)),
        connect(port) as other,
    ):
        for number in range(20):
            peer = connect(port)
            peer.sendall(b"whole %d\nhal" % number)
            receive(peer, 6)
            # Closing resets the connection, as a machine does that has lost its memory.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
        other.sendall(b"other\n")
        receive(other, 6)
    lines = data_of(tmp_path)
    assert [line for line in lines if line.startswith(b"whole")] == [
        b"whole %d" % number for number in range(20)
    ]
    assert set(lines) <= {b"hal", b"other", *(b"whole %d" % number for number in range(20))}


def test_a_silent_sender_is_closed_and_its_half_line_stored(tmp_path: Path) -> None:
    options = ("--tcp", "127.0.0.1:0", "--idle-timeout-seconds", 1)
    with listening(tmp_path, *options) as (_, (port,)):
        with connect(port) as silent, connect(port) as half:
            half.sendall(b"half")
            assert is_cut_off(silent)
            assert is_cut_off(half)
        with connect(port) as later:
            later.sendall(b"later\n")
            assert is_cut_off(later)
    assert sorted(data_of(tmp_path)) == [b"half", b"later"]


@contextlib.contextmanager
def impatient(store: Path, *options: object) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A daemon that waits but a second for senders who do not read their answers."""
    script = (
        "import sys, kifa.cli, kifa.sources.stream as stream;"
        "stream.UNREAD_ANSWERS_SECONDS = 1.0; kifa.cli.main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "daemon", "-d", str(store), *map(str, options)],
        stderr=subprocess.PIPE,
    )
    try:
        ready = read_until(process.stderr, b"ready").decode()
        yield process, int(re.findall(r"', (\d+)\)", ready)[0])
    finally:
        process.kill()
        process.communicate()


def test_a_sender_that_never_reads_its_answers_is_cut_off_and_stalls_nobody(tmp_path: Path) -> None:
    with impatient(tmp_path, "--tcp", "127.0.0.1:0", "--ack") as (process, port):
        deaf = connect(port)
        stuck = threading.Event()

        def shout() -> None:
            with contextlib.suppress(OSError):
                while True:
                    deaf.sendall(b"\n" * 65536)
            stuck.set()

        thread = threading.Thread(target=shout, daemon=True)
        thread.start()
        with connect(port) as other:
            lsns = []
            while not stuck.is_set() or len(lsns) < 20:
                other.sendall(b"x\n")
                answer = b""
                while not answer.endswith(b"\n"):
                    answer += other.recv(64)
                lsns.append(int(answer.split()[1]))
        thread.join(DEADLINE_SECONDS)
        deaf.close()
        peak_kib = int(
            re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]  # type: ignore[index]
        )
        assert peak_kib < 200 * 1024
        assert lsns == sorted(set(lsns))


def test_answers_to_all_senders_are_given_at_the_end_though_one_reads_nothing(
    tmp_path: Path,
) -> None:
    with listening(tmp_path, "--tcp", "127.0.0.1:0", "--ack") as (process, (port,)):
        deaf = [connect(port) for _ in range(5)]
        for peer in deaf:
            peer.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(200):
                    peer.send(b"\n" * 65536)
        good = connect(port)
        good.sendall(b"good\n" * 100)
        answers = good.makefile("rb")
        assert answers.readline().startswith(b"ACK ")
        process.terminate()
        assert len(answers.readlines()) == 99
        assert process.wait(DEADLINE_SECONDS) == 143
        for peer in [good, *deaf]:
            peer.close()


def test_too_few_descriptors_never_stop_the_listener_nor_the_store(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))

    options = ("--tcp", "127.0.0.1:0", "--ack", "--segment-size-mib", 1)
    with listening(tmp_path, *options, preexec_fn=limit) as (_, (port,)):
        for _ in range(3):
            peers = [connect(port) for _ in range(150)]
            served = []
            for peer in peers:
                # Those beyond the limit are told, or closed.
                with contextlib.suppress(ConnectionError):
                    peer.sendall(b"x" * 1000 + b"\n")
            for peer in peers:
                with contextlib.suppress(ConnectionError):
                    if peer.recv(4) == b"ACK ":
                        served.append(peer)
            assert len(served) >= 10
            # All descriptors are in use now, and the log goes from segment to segment.
            first = served[0]
            receive(first, 2)
            for _ in range(4):
                first.sendall(b"".join(b"x" * 1000 + b"\n" for _ in range(1000)))
                answers = b""
                while answers.count(b"\n") < 1000:
                    answers += receive(first, 1)
                assert b"ERR" not in answers
            for peer in peers:
                peer.close()


def held_descriptors(pid: int, store: Path) -> list[str]:
    """What a process has open, without the store's files: those come and go with its upkeep."""
    targets = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            targets.append(str(descriptor.readlink()))
    return sorted(target for target in targets if not Path(target).is_relative_to(store))


def test_thousands_of_short_connections_leave_nothing_behind(tmp_path: Path) -> None:
    path, store = tmp_path / "socket", tmp_path / "store"
    with running(store, "--unix", path, "--ack") as process:
        before = held_descriptors(process.pid, store)
        assert any(target.startswith("socket:") for target in before)
        for number in range(1500):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(path))
                peer.sendall(b"%d\n" % number)
                if number % 100 == 0:
                    peer.settimeout(DEADLINE_SECONDS)
                    peer.recv(64)
        wait_for(lambda: len(data_of(store)) == 1500)
        wait_for(lambda: held_descriptors(process.pid, store) == before)
    assert set(data_of(store)) == {b"%d" % number for number in range(1500)}


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_no_host_is_every_interface_of_both_families(host: str, tmp_path: Path) -> None:
    with listening(tmp_path, "--tcp", ":0", "--udp", ":0", "--ack") as (_, (tcp, udp)):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"datagram", (host, udp))
            sender.sendto(b"", (host, udp))
        with connect(tcp, host) as peer:
            peer.sendall(b"line\n")
            receive(peer, 6)
        wait_for(lambda: len(data_of(tmp_path)) == 3)
    assert sorted(data_of(tmp_path)) == [b"", b"datagram", b"line"]
