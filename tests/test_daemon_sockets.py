"""TCP, Unix and UDP sources of the real daemon."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import DEADLINE_SECONDS, data_of, read_until, start


@contextmanager
def listening(
    store: Path, *options: object, code: int = 143, **keywords: Any
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """A daemon and the ports it listens on; ends it, with this exit code."""
    with start(store, *options, **keywords) as process:
        try:
            errors = read_until(process.stderr, b"ready").decode()
            yield process, [int(port) for port in re.findall(r"', (\d+)(?:, 0, 0)?\)", errors)]
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_SECONDS) == code
        finally:
            process.kill()


def receive(peer: socket.socket, size: int) -> bytes:
    peer.settimeout(DEADLINE_SECONDS)
    found = b""
    while len(found) < size:
        chunk = peer.recv(65536)
        assert chunk, found
        found += chunk
    return found


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_line_may_come_in_pieces(host: str, tmp_path: Path) -> None:
    with listening(tmp_path, "--tcp", f"{host}:0", "--ack") as (_, (port,)):  # noqa: SIM117
        with socket.create_connection((host.strip("[]"), port)) as peer:
            for piece in (b"he", b"l", b"lo\r", b"\n\xff", b"\nlast"):
                peer.sendall(piece)
            assert receive(peer, 12) == b"ACK 1\nACK 2\n"
            peer.shutdown(socket.SHUT_WR)
            assert receive(peer, 6) == b"ACK 3\n"
            assert peer.recv(1) == b""
    assert data_of(tmp_path) == [b"hello", b"\xff", b"last"]


def test_many_senders_on_tcp_and_unix(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    store = tmp_path / "store"
    with listening(store, "--tcp", "127.0.0.1:0", "--unix", path, "--ack") as (_, (port,)):
        peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
        for _ in range(8):
            peers.append(socket.socket(socket.AF_UNIX))
            peers[-1].connect(str(path))
        for number, peer in enumerate(peers):
            peer.sendall(b"".join(b"%d %d\n" % (number, line) for line in range(100)))
        for peer in peers:
            answers = b""
            while answers.count(b"\n") < 100:
                answers += receive(peer, 1)
            lsns = [int(answer[4:]) for answer in answers.splitlines()]
            assert lsns == sorted(lsns)
            peer.close()
    entries = data_of(store)
    for number in range(16):
        mine = [e for e in entries if e.startswith(b"%d " % number)]
        assert mine == [b"%d %d" % (number, line) for line in range(100)]
    assert not path.exists()


def test_a_refused_line_is_answered_in_order(tmp_path: Path) -> None:
    options = ("--tcp", "127.0.0.1:0", "--ack", "--max-line-size-bytes", 10)
    with (
        listening(tmp_path, *options) as (_, (port,)),
        socket.create_connection(("127.0.0.1", port)) as peer,
    ):
        peer.sendall(b"a\n" + b"x" * 11 + b"\nb\n")
        wanted = b"ACK 1\nERR line of 11 bytes is too long\nACK 2\n"
        assert receive(peer, len(wanted)) == wanted
    assert data_of(tmp_path) == [b"a", b"b"]


def test_octet_counting(tmp_path: Path) -> None:
    options = ("--tcp", "127.0.0.1:0", "--ack", "--framing", "octet-counting")
    with (
        listening(tmp_path, *options) as (_, (port,)),
        socket.create_connection(("127.0.0.1", port)) as peer,
    ):
        for piece in (b"6 he", b"l\nlo0 ", b"1", b"0 ", b"0123456789"):
            peer.sendall(piece)
        assert receive(peer, 18) == b"ACK 1\nACK 2\nACK 3\n"
        peer.sendall(b"nonsense")
        assert receive(peer, 4).startswith(b"ERR ")
    assert data_of(tmp_path) == [b"hel\nlo", b"", b"0123456789"]


def test_a_connection_beyond_the_limit_is_told(tmp_path: Path) -> None:
    options = ("--tcp", "127.0.0.1:0", "--ack", "--max-connections", 1)
    with (
        listening(tmp_path, *options) as (_, (port,)),
        socket.create_connection(("127.0.0.1", port)) as first,
    ):
        first.sendall(b"a\n")
        receive(first, 6)
        with socket.create_connection(("127.0.0.1", port)) as second:
            assert receive(second, 4).startswith(b"ERR ")
        first.sendall(b"b\n")
        receive(first, 6)


# A resolver whose "both.test" is what "localhost" is on most machines, whatever this one's /etc/hosts says, ...
RESOLVER = """
import socket
real = socket.getaddrinfo
def resolve(host, port, *args, **keywords):
    if host == b"both.test":
        hosts = {hosts!r}
        return [entry for host in hosts for entry in real(host, port, *args, **keywords)]
    return real(host, port, *args, **keywords)
socket.getaddrinfo = resolve
"""


@pytest.mark.parametrize(
    ("hosts", "wanted"),
    [
        (["::1", "127.0.0.1", "127.0.0.1"], ["::1", "127.0.0.1"]),  # ... with a line twice,
        (["2001:db8::1", "127.0.0.1"], ["127.0.0.1"]),  # or with an address that is not ours
    ],
)
def test_a_name_is_listened_on_at_each_of_its_addresses(
    hosts: list[str], wanted: list[str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(RESOLVER.replace("{hosts!r}", repr(hosts)))
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    store = tmp_path / "store"
    with listening(store, "--tcp", "both.test:0", "--ack", env=environment) as (_, ports):
        assert len(ports) == len(wanted)
        for host, port in zip(wanted, ports, strict=True):
            with socket.create_connection((host, port)) as peer:
                peer.sendall(host.encode() + b"\n")
                assert receive(peer, 6).startswith(b"ACK ")
    assert data_of(store) == [host.encode() for host in wanted]


def test_a_name_of_which_one_address_is_in_use_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        RESOLVER.replace("{hosts!r}", repr(["::1", "127.0.0.1"]))
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with start(tmp_path / "store", "--tcp", f"both.test:{port}", env=environment) as process:
            _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode not in (0, 143)
    assert b"cannot listen on both.test" in errors


def test_every_datagram_of_a_burst_is_stored_or_counted(tmp_path: Path) -> None:
    with start(tmp_path, "--udp", "127.0.0.1:0") as process:
        errors = read_until(process.stderr, b"ready").decode()
        found = re.search(r"', (\d+)\)", errors)
        assert found is not None
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("127.0.0.1", int(found[1])))
            for number in range(5000):
                sender.send(b"%d" % number)
            sender.send(b"x" * 60_000)
        # The last datagram, or the count of it, is there when nothing waits any more.
        table = Path("/proc/net/udp")
        line = f":{int(found[1]):04X} "
        while next(row for row in table.read_text().splitlines() if line in row).split()[4] != (
            "00000000:00000000"
        ):
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 143
    lost = int(re.search(rb"(\d+) lost", rest)[1])  # type: ignore[index]
    entries = data_of(tmp_path)
    assert len(entries) + lost == 5001
    assert len(set(entries)) == len(entries)
