"""Clients of the real daemon over loopback, beside the bare durable write of the same rounds.

`measure` adds to a session: ``clients/<n>``, acknowledged clients with one line in flight each, with the series
``kifa``, ``floor`` and ``one client``; and ``clients/pipelined``, one sender that waits for nothing. The parts can be
called alone: `connected` gives sockets of a daemon, `in_step` and `pipelined` do one turn with them.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench._floor import FloorFile
from bench._senders import pipeline, round_trips
from bench.append import floor_timed
from bench.lines import different_lines
from bench.process import Daemon
from bench.results import FLOOR, KIFA
from bench.session import Session, Turn

ONE_CLIENT = "one client"
BARE_WRITE = "C loop: one block, O_DIRECT and fdatasync"
BARE_COPY = "C loop: as many bytes in durable writes of 1 MiB, written blocks"
MIB = 1 << 20


def measure(session: Session) -> None:
    """Measure everything of this area."""
    for clients in (count for count in session.options.clients if count > 1):
        _acknowledged(session, clients)
    _pipelined(session)


@contextlib.contextmanager
def connected(
    store: Path, clients: int, lines_before: int = 600_000
) -> Iterator[list[socket.socket]]:
    """Start a daemon on ``store`` and give so many connections to it, acknowledged, over TCP on loopback.

    Args:
        lines_before: stored first, so that segments are in use again, as they are on any day but the first.
    """
    port = _free_port()
    with Daemon(store, "--tcp", f"127.0.0.1:{port}", "--ack") as daemon:
        with contextlib.ExitStack() as peers:
            sockets = []
            for _ in range(clients):
                peer = peers.enter_context(socket.create_connection(("127.0.0.1", port)))
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sockets.append(peer)
            if lines_before:
                pipelined(sockets[0], 200, lines_before)
            yield sockets
        daemon.stop()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def in_step(peers: list[socket.socket], size_bytes: int, count: int) -> Turn:
    """Send ``count`` lines from each of ``peers``, each when the one before it was acknowledged."""
    for peer in peers:
        peer.setblocking(True)
    line = b"x" * size_bytes + b"\n"
    started = time.perf_counter()
    latencies = round_trips([peer.fileno() for peer in peers], line, count)
    return Turn(len(latencies), time.perf_counter() - started, latencies)


def pipelined(peer: socket.socket, size_bytes: int, lines: int) -> Turn:
    """Send about so many lines without waiting; the turn ends with the last acknowledgement."""
    peer.setblocking(False)
    some = different_lines(size_bytes)[:lines]
    repeats = lines // len(some)
    started = time.perf_counter()
    pipeline(peer.fileno(), b"\n".join(some) + b"\n", repeats)
    return Turn(len(some) * repeats, time.perf_counter() - started)


def warm_up(session: Session) -> int:
    """Return how many lines are stored before anything is measured."""
    return session.options.scaled(600_000, 20_000)


def _acknowledged(session: Session, clients: int) -> None:
    size = session.options.entry_size
    one = session.measurement(
        f"clients/{clients}",
        f"{clients} acknowledged TCP clients, one line of {size} B in flight each",
        "lines/s",
        floor=BARE_WRITE,
        size_bytes=size,
        clients=clients,
    )
    each = max(session.options.scaled(8_000, 800) // clients, 8)
    with (
        session.scratch("clients") as directory,
        FloorFile(str(directory / "floor")) as floor,
        connected(directory / "store", clients, warm_up(session)) as peers,
    ):
        bare = session.options.scaled(400, 100)
        subjects: dict[str, Callable[[], Turn]] = {
            FLOOR: partial(floor_timed, floor, size, bare),
            ONE_CLIENT: partial(in_step, peers[:1], size, bare),
            KIFA: partial(in_step, peers, size, each),
        }
        session.take_turns(one, subjects, turns=2)


def _pipelined(session: Session) -> None:
    size, lines = 200, session.options.scaled(500_000, 50_000)
    one = session.measurement(
        "clients/pipelined",
        f"one TCP sender that pipelines lines of {size} B, all acknowledged",
        "lines/s",
        floor=BARE_COPY,
        size_bytes=size,
        lines=lines,
    )
    writes = max(lines * size // MIB, 1)
    with (
        session.scratch("pipelined") as directory,
        FloorFile(str(directory / "floor"), MIB) as floor,
        connected(directory / "store", 1, warm_up(session)) as (peer,),
    ):
        subjects: dict[str, Callable[[], Turn]] = {
            FLOOR: partial(floor_timed, floor, MIB, writes, MIB // size),
            KIFA: partial(pipelined, peer, size, lines),
        }
        session.take_turns(one, subjects, rounds=session.options.heavy_rounds, turns=2)
