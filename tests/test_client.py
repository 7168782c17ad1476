"""The clients of the package, against the real daemon, and against senders of answers that no daemon would send."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import kifa
from tests.conftest import run_python
from tests.daemons import DEADLINE_SECONDS, data_of
from tests.test_daemon_sockets import listening

Send = Callable[..., list[int]]


def send_sync(address: str, items: Iterable[bytes], **options: Any) -> list[int]:
    with kifa.connect(address, **options) as client:
        return client.send_many(items)


def send_async(address: str, items: Iterable[bytes], **options: Any) -> list[int]:
    async def run() -> list[int]:
        async with await kifa.connect_async(address, **options) as client:
            return await client.send_many(items)

    return asyncio.run(run())


both = pytest.mark.parametrize("send", [send_sync, send_async])


@contextmanager
def scripted(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of something that accepts one connection, does ``talk`` with it, and closes it."""

    def run() -> None:
        peer, _ = listener.accept()
        with peer:
            talk(peer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=run)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()


def read_lines(peer: socket.socket, count: int) -> None:
    found = 0
    while found < count:
        data = peer.recv(65536)
        assert data
        found += data.count(b"\n")


@both
def test_lines_are_sent_and_refused(send: Send, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    options = ("--tcp", "127.0.0.1:0", "--unix", path, "--ack", "--max-line-size-bytes", 10)
    with listening(tmp_path / "store", *options) as (_, (port,)):
        address = f"127.0.0.1:{port}"
        assert send(address, [b"one"]) == [1]
        assert send(address, (b"%d" % n for n in range(50_000))) == list(range(2, 50_002))
        assert send(address, []) == []
        with pytest.raises(kifa.EntryRefusedError, match="11 bytes") as caught:
            send(address, [b"a", b"x" * 11, b"b"])
        assert caught.value.lsns == [50_002, None, 50_003]
        for wrong in (b"two\nlines", b"end\r", b"\n"):
            with pytest.raises(kifa.UsageError):
                send(address, [b"not sent", wrong])
        assert send(str(path), [b""]) == [50_004]
    assert data_of(tmp_path / "store")[50_000:] == [b"49999", b"a", b"b", b""]


@both
def test_octet_counting_carries_line_ends(send: Send, tmp_path: Path) -> None:
    options = ("--tcp", "127.0.0.1:0", "--ack", "--framing", "octet-counting")
    with listening(tmp_path, *options) as (_, (port,)):
        items = [b"two\nlines", b"", b"\r\n", b"9 9"]
        assert send(f"127.0.0.1:{port}", items, framing="octet-counting") == [1, 2, 3, 4]
    assert data_of(tmp_path) == items


@both
def test_full_buffers_on_both_sides_are_no_deadlock(send: Send) -> None:
    """The other side reads nothing while its answers are not taken."""
    count = 200_000

    def talk(peer: socket.socket) -> None:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        answered = 0
        while answered < count:
            lines = peer.recv(4096).count(b"\n")
            numbers = range(answered + 1, answered + lines + 1)
            peer.sendall(b"".join(b"ACK %030d\n" % number for number in numbers))
            answered += lines

    with scripted(talk) as address:
        assert send(address, [b"x" * 40] * count) == list(range(1, count + 1))


@both
def test_a_lost_connection_says_what_is_unknown(send: Send) -> None:
    def talk(peer: socket.socket) -> None:
        read_lines(peer, 5)
        peer.sendall(b"ACK 7\nERR no space\nACK 8\nAC")

    with (
        scripted(talk) as address,
        pytest.raises(kifa.ConnectionLostError, match="no space") as caught,
    ):
        send(address, [b"%d" % n for n in range(5)])
    assert caught.value.lsns == [7, None, 8]
    assert caught.value.unknown == 2
    assert isinstance(caught.value, ConnectionError)


@both
def test_what_was_answered_before_a_reset_counts(send: Send) -> None:
    def talk(peer: socket.socket) -> None:
        read_lines(peer, 1)
        peer.sendall(b"ACK 1\n")
        # Unread data makes this end a reset, while the client still sends.

    with scripted(talk) as address, pytest.raises(kifa.ConnectionLostError) as caught:
        send(address, [b"x" * 1000] * 100_000)
    error = caught.value
    assert error.lsns in ([1], [])  # a reset may overtake
    assert 0 < error.unknown <= 16 * 1024


@both
@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n", b"x" * 10_000, b"ACK -1\n"])
def test_an_answer_that_is_none(send: Send, answer: bytes) -> None:
    def talk(peer: socket.socket) -> None:
        peer.sendall(answer)
        while peer.recv(65536):
            pass

    with scripted(talk) as address, pytest.raises(kifa.ConnectionLostError, match="answer"):
        send(address, [b"a", b"b"])


def test_silence_ends(tmp_path: Path) -> None:
    async def run(address: str) -> None:
        async with await kifa.connect_async(address) as client:
            client._protocol._timeout_seconds = 0.2
            await client.send_many([b"a", b"b"])

    with listening(tmp_path, "--tcp", "127.0.0.1:0") as (_, (port,)):
        with kifa.connect(f"127.0.0.1:{port}") as client:
            client._timeout_seconds = 0.2  # connecting has all the time it needs
            with pytest.raises(kifa.ConnectionLostError, match="--ack") as caught:
                client.send_many([b"a", b"b"])
        assert caught.value.unknown == 2
        with pytest.raises(kifa.ConnectionLostError, match="--ack") as caught:
            asyncio.run(run(f"127.0.0.1:{port}"))
        assert caught.value.unknown == 2


@both
def test_an_address_that_is_none(send: Send, tmp_path: Path) -> None:
    with pytest.raises(kifa.UsageError, match="slash"):
        send("nowhere", [])
    with pytest.raises(kifa.UsageError, match="framing"):
        send("127.0.0.1:1", [], framing="lines")
    with pytest.raises(FileNotFoundError):
        send(str(tmp_path / "none"), [])


@both
def test_a_killed_daemon_kept_all_it_answered(send: Send, tmp_path: Path) -> None:
    """Answered is stored; what is stored was answered or is unknown; nothing else was sent."""
    items = [b"%d" % n for n in range(1_000_000)]
    with listening(tmp_path, "--tcp", "127.0.0.1:0", "--ack", code=-9) as (process, (port,)):
        killer = threading.Thread(target=kill_when_written, args=(process.pid, tmp_path))
        killer.start()
        with pytest.raises(kifa.ConnectionLostError) as caught:
            send(f"127.0.0.1:{port}", items)
        killer.join()
    answered = len(caught.value.lsns)
    assert caught.value.lsns == list(range(1, answered + 1))
    with kifa.open(tmp_path):
        pass
    stored = data_of(tmp_path)
    assert answered <= len(stored) <= answered + caught.value.unknown
    assert stored == items[: len(stored)] or stored[:-1] == items[: len(stored) - 1]


def kill_when_written(process_id: int, store: Path) -> None:
    while kifa.reader(store).stats().total_entries < 10_000:
        pass
    os.kill(process_id, signal.SIGKILL)


def test_a_client_that_lost_its_connection_stays_closed() -> None:
    with scripted(lambda peer: read_lines(peer, 1)) as address:
        client = kifa.connect(address)
        with pytest.raises(kifa.ConnectionLostError):
            client.send(b"a")
        with pytest.raises(kifa.ClosedError, match="connect again"):
            client.send(b"b")
        client.close()

    async def run() -> None:
        client = await kifa.connect_async(address)
        with pytest.raises(kifa.ConnectionLostError):
            await client.send(b"a")
        with pytest.raises(kifa.ClosedError, match="connect again"):
            await client.send(b"b")
        await client.close()

    with scripted(lambda peer: read_lines(peer, 1)) as address:
        asyncio.run(run())


def test_threads_share_a_client(tmp_path: Path) -> None:
    with listening(tmp_path, "--tcp", "127.0.0.1:0", "--ack") as (_, (port,)):
        found: list[int] = []
        with kifa.connect(f"127.0.0.1:{port}") as client:

            def work() -> None:
                for number in range(100):
                    found.extend(client.send_many([b"%d" % number, b"x"]))

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert sorted(found) == list(range(1, 801))


def test_tasks_share_a_client(tmp_path: Path) -> None:
    async def run(address: str) -> list[list[int]]:
        async with await kifa.connect_async(address) as client:
            calls = (client.send_many([b"%d %d" % (n, k) for k in range(50)]) for n in range(100))
            return list(await asyncio.gather(*calls))

    with listening(tmp_path, "--tcp", "127.0.0.1:0", "--ack") as (_, (port,)):
        found = asyncio.run(run(f"127.0.0.1:{port}"))
    stored = data_of(tmp_path)
    for number, lsns in enumerate(found):
        assert [stored[lsn - 1] for lsn in lsns] == [b"%d %d" % (number, k) for k in range(50)]


def test_a_cancelled_task_leaves_the_client_usable(tmp_path: Path) -> None:
    async def run(address: str) -> tuple[int, int]:
        async with await kifa.connect_async(address) as client:
            first = await client.send(b"first")
            tasks = [asyncio.create_task(client.send_many([b"x" * 100] * 100_000)) for _ in "ab"]
            await asyncio.sleep(0)  # both begin; the second waits for its turn
            for task in tasks:
                task.cancel()
            for task in tasks:
                with pytest.raises(asyncio.CancelledError):
                    await task
            return first, await client.send(b"last")

    with listening(tmp_path, "--tcp", "127.0.0.1:0", "--ack") as (_, (port,)):
        first, last = asyncio.run(run(f"127.0.0.1:{port}"))
        gc.collect()  # a future whose error nobody took would complain now
    stored = data_of(tmp_path)
    assert (stored[first - 1], stored[last - 1], len(stored)) == (b"first", b"last", last)


def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    """Its lines and those of its parent would be answered to whichever reads first."""
    script = (
        "import asyncio, os, sys, kifa\n"
        "def child(call):\n"
        "    if (pid := os.fork()) == 0:\n"
        "        try:\n"
        "            call()\n"
        "        except kifa.ForkedError:\n"
        "            os._exit(7)\n"
        "        os._exit(1)\n"
        "    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7\n"
        "with kifa.connect(sys.argv[1]) as client:\n"
        "    client.send(b'one')\n"
        "    child(lambda: client.send(b'child'))\n"
        "    print(client.send(b'two'))\n"
        "async def run():\n"
        "    client = await kifa.connect_async(sys.argv[1])\n"
        "    await client.send(b'three')\n"
        "    child(lambda: client.send(b'child').send(None))\n"
        "    print(await client.send(b'four'))\n"
        "    await client.close()\n"
        "asyncio.run(run())\n"
    )
    with listening(tmp_path, "--tcp", "127.0.0.1:0", "--ack") as (_, (port,)):
        result = run_python(script, f"127.0.0.1:{port}")
    assert (result.returncode, result.stdout) == (0, b"2\n4\n"), result.stderr
    assert data_of(tmp_path) == [b"one", b"two", b"three", b"four"]


def test_the_blocking_client_loads_no_asyncio() -> None:
    script = "import sys, kifa; kifa.connect; print('asyncio' in sys.modules)"
    assert run_python(script).stdout == b"False\n"
