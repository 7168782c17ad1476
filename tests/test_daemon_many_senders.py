"""Many senders at once, one line in flight each: what they were told is what is stored, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kifa
from tests.crowd import Crowd
from tests.daemons import DEADLINE_SECONDS, data_of, read_until, running, start
from tests.lazyfs.conftest import MountFactory, mount
from tests.test_daemon_full_disk import disk, fill

__all__ = ["disk", "mount"]

TCP = ("--tcp", "127.0.0.1:0", "--ack")


@contextlib.contextmanager
def crowded(
    store: Path, count: int, *options: object, seed: int = 0
) -> Iterator[tuple[subprocess.Popen[bytes], Crowd, Callable[[int], socket.socket]]]:
    """A daemon, so many senders that have begun, and what connects one more."""
    with start(store, *TCP, *options) as process:
        crowd = None
        try:
            ready = read_until(process.stderr, b"ready").decode()
            port = int(re.findall(r"', (\d+)\)", ready)[0])

            def connect(_number: int) -> socket.socket:
                return socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS)

            crowd = Crowd(connect, count, seed)
            crowd.begin()
            yield process, crowd, connect
        finally:
            process.kill()
            if crowd is not None:
                crowd.close()


def stored(store: Path) -> dict[int, bytes]:
    """All entries by LSN."""
    return {entry.lsn: entry.data for entry in kifa.reader(store).entries()}


@pytest.mark.parametrize("seed", range(3))
def test_all_that_was_stored_is_answered_when_the_daemon_is_told_to_end(
    seed: int, tmp_path: Path
) -> None:
    with crowded(tmp_path, 40, "--segment-size-mib", 1, seed=seed) as (process, crowd, _):
        crowd.run(until=lambda: len(crowd.confirmed) >= 3000)
        process.terminate()
        crowd.run()
        _, errors = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 143
        assert b"0 refused, 0 lost" in errors
        assert not crowd.refusals
    # One who was cut off within a line was not told of it, and it is not stored.
    assert stored(tmp_path) == crowd.confirmed


def test_each_mode_answers_all(tmp_path: Path) -> None:
    for mode in ("normal", "emergency"):
        store = tmp_path / mode
        with crowded(store, 20, "--flush-mode", mode) as (process, crowd, _):
            crowd.run(until=lambda crowd=crowd: len(crowd.confirmed) >= 400)  # type: ignore[misc]
            process.terminate()
            crowd.run()
            assert process.wait(DEADLINE_SECONDS) == 143
        assert stored(store) == crowd.confirmed


def test_no_answer_is_for_a_sync_that_failed(mount: MountFactory) -> None:
    mounted = mount()
    store = mounted.path / "store"
    with crowded(store, 16) as (process, crowd, _):
        crowd.run(until=lambda: len(crowd.confirmed) >= 200)
        mounted.command("fail", op="fdatasync", path="*.wal", forever=True)
        crowd.run()
        _, errors = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 6
        assert b"sync" in errors.splitlines()[-1]
    mounted.command("clear")
    mounted.power_loss(1)
    with running(store, "--stdin") as process:
        process.communicate(b"later\n", DEADLINE_SECONDS)
    found = stored(store)
    assert {lsn: found.get(lsn) for lsn in crowd.confirmed} == crowd.confirmed
    assert sorted(found) == list(range(1, len(found) + 1))


def test_a_full_disk_is_told_to_each_and_all_go_on(disk: Path) -> None:
    store = disk / "store"
    with crowded(store, 20, "--segment-size-mib", 1) as (process, crowd, _):
        crowd.run(until=lambda: len(crowd.confirmed) >= 100)
        filler = fill(disk)
        crowd.run(until=lambda: len(crowd.refusals) >= 100)
        filler.unlink()
        before = len(crowd.confirmed)
        crowd.run(until=lambda: len(crowd.confirmed) >= before + 1000)
        process.terminate()
        crowd.run()
        _, errors = process.communicate(timeout=DEADLINE_SECONDS)
        assert process.returncode == 143
        assert f"{len(crowd.refusals)} refused, 0 lost".encode() in errors
        assert set(crowd.refusals) == {b"ERR no space\n"}
    assert stored(store) == crowd.confirmed


def test_those_who_misbehave_do_not_disturb_the_others(tmp_path: Path) -> None:
    with crowded(tmp_path, 12, "--max-line-size-bytes", 6000) as (process, crowd, connect):
        rude: list[socket.socket] = []
        expected_half_lines = 0

        def misbehave() -> bool:
            nonlocal expected_half_lines
            peer = connect(0)
            match len(rude) % 4:
                case 0:  # a line that is refused between two that are not
                    peer.sendall(b"rude\n" + b"x" * 7000 + b"\nrude\n")
                case 1:  # gone within a line
                    peer.sendall(b"rude\nhal")
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    peer.close()
                case 2:  # whole lines, a half one, and no more
                    peer.sendall(b"rude\n" * 100 + b"half")
                    peer.shutdown(socket.SHUT_WR)
                    expected_half_lines += 1
                case 3:  # reads nothing
                    peer.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        for _ in range(8):
                            peer.send(b"rude\n" * 1000)
            rude.append(peer)
            return len(rude) == 40

        crowd.run(until=misbehave)
        crowd.run(until=lambda: len(crowd.confirmed) >= 2000)
        for peer in rude[0::4]:
            answers = peer.makefile("rb")
            assert answers.readline().startswith(b"ACK ")
            assert answers.readline() == b"ERR line of 7000 bytes is too long\n"
            assert answers.readline().startswith(b"ACK ")
            answers.close()
        for peer in rude[2::4]:
            answers = peer.makefile("rb")
            assert len([line for line in answers if line.startswith(b"ACK ")]) == 101
            answers.close()
        process.terminate()
        crowd.run()
        assert process.wait(DEADLINE_SECONDS) == 143
        for peer in rude:
            peer.close()
    lines = data_of(tmp_path)
    theirs = [line for line in lines if line not in (b"rude", b"half", b"hal")]
    found = stored(tmp_path)
    assert {lsn: found[lsn] for lsn in crowd.confirmed} == crowd.confirmed
    assert sorted(theirs) == sorted(crowd.confirmed.values())
    assert lines.count(b"half") == expected_half_lines
