"""The senders that measure the daemon: every line that they count is stored."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

import kifa
from bench._senders import pipeline, round_trips
from bench.daemon import connected, in_step, pipelined


def test_what_is_counted_is_stored(tmp_path: Path) -> None:
    with connected(tmp_path / "store", 8, lines_before=2_000) as peers:
        turn = in_step(peers, 20, 10)
        assert (turn.entries, len(turn.latencies)) == (80, 80)
        assert all(0 < seconds <= turn.seconds for seconds in turn.latencies)
        assert pipelined(peers[0], 200, 5_000).entries == 5_000
    entries = list(kifa.reader(tmp_path / "store").entries())
    assert len(entries) == 2_000 + 80 + 5_000
    assert {len(entry.data) for entry in entries[2_000:2_080]} == {20}


@pytest.mark.parametrize("answer", [b"ERR no space\n", b""])
def test_what_is_not_acknowledged_is_not_counted(answer: bytes) -> None:
    for send in (
        lambda peer: round_trips([peer.fileno()], b"x\n", 2),
        lambda peer: pipeline(peer.fileno(), b"x\nx\n", 1),
    ):
        own, other = socket.socketpair()

        def talk(peer: socket.socket = other) -> None:
            with peer:
                peer.recv(100)
                peer.sendall(answer)

        thread = threading.Thread(target=talk)
        thread.start()
        with own, pytest.raises((ValueError, OSError)):
            send(own)
        thread.join()
