"""`kifa daemon --stdin`, start-up to exit: from files and pipes, bursts, lone lines, and beside a compaction."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench import daemon
from bench._floor import FloorFile
from bench.append import append_timed, floor_timed, warm_up
from bench.installation import installation
from bench.lines import different_lines, write_lines
from bench.peers import PEERS, KifaStore
from bench.process import Daemon, environment, feeding, run
from bench.results import FLOOR, KIFA, Measurement
from bench.session import Session, Turn, mark_peers
from bench.tables import make_tables

PEER_GROUP = 5_000
BARE_COPY = "C loop: read, write and fdatasync in pieces of 1 MiB, written blocks"
LINES_BEFORE = 400_000
SETTINGS_OF_BURST = {
    "MEMTABLE_FLUSH_THRESHOLD_MIB": 1024,
    "SEGMENT_SIZE_MIB": 1024,
    "CHANNEL_CAPACITY": 16_384,  # groups of 1 MiB
}


def measure(session: Session) -> None:
    """Measure everything of this area."""
    _streams(session)
    _burst(session)
    _lone_line(session)
    daemon.measure(session)
    _compaction_stall(session)


def _streams(session: Session) -> None:
    """10 M lines from a file and from a pipe, cautious and normal, taking turns."""
    options = session.options
    count = options.scaled(10_000_000, 300_000)
    with session.scratch("ingest") as directory:
        session.progress.show("write the lines to feed")
        lines = directory / "lines"
        raw = write_lines(lines, count, 200)
        for source in ("file", "pipe"):
            both = {
                mode: session.measurement(
                    f"ingest/{source}/{mode}",
                    f"`kifa daemon --stdin` from a {source}, {mode}, {count:,} lines of 200 B",
                    "lines/s",
                    floor=BARE_COPY,
                    lines=count,
                    mode=mode,
                    entry_bytes=raw,
                    condition="" if count >= 10_000_000 else f"{count:,} lines only",
                )
                for mode in ("cautious", "normal")
            }
            for _ in session.rounds(options.heavy_rounds, both["cautious"]):
                _stream_round(directory, lines, source, count, both)
                _peers_round(session, directory, both["cautious"], count)
            both["normal"].series["kifa cautious"] = list(both["cautious"].series[KIFA])
            mark_peers(both["cautious"])


def _stream_round(
    directory: Path, lines: Path, source: str, count: int, both: dict[str, Measurement]
) -> None:
    bare = count / _copy_seconds(directory / "floor", lines, source)
    for mode, one in both.items():
        one.add(FLOOR, bare)
        store = directory / "store"
        command = [
            *installation().kifa,
            "daemon",
            "--stdin",
            "-d",
            str(store),
            "--flush-mode",
            mode,
        ]
        if source == "pipe":
            with feeding(["cat", str(lines)]) as stream:
                used = run(command, stdin=stream)
        else:
            with lines.open("rb") as stream:
                used = run(command, stdin=stream)
        one.add(KIFA, count / used.seconds)
        written = one.parameters.setdefault("written_per_entry_byte", [])
        written.append(used.written_bytes / one.parameters["entry_bytes"])
        one.parameters.setdefault("peak_mib", []).append(used.peak_mib)
        subprocess.run(["rm", "-rf", str(store)], check=True)


def _copy_seconds(path: Path, lines: Path, source: str) -> float:
    with FloorFile(str(path)) as floor:
        if source == "pipe":
            with feeding(["cat", str(lines)]) as stream:
                started = time.perf_counter()
                floor.copy_from(stream.fileno())
                return time.perf_counter() - started
        with lines.open("rb", buffering=0) as stream:
            started = time.perf_counter()
            floor.copy_from(stream.fileno())
            return time.perf_counter() - started


def _peers_round(session: Session, directory: Path, one: Measurement, count: int) -> None:
    """Peers in this process: 5,000 lines a sync, and no more lines than needed for a rate."""
    lines = list(different_lines(200))[:count]
    for name in session.options.peers:
        store = PEERS[name](directory / name)
        repeats = max(min(session.options.scaled(400_000, 50_000), count) // len(lines), 1)
        started = time.perf_counter()
        for _ in range(repeats):
            for position in range(0, len(lines), PEER_GROUP):
                store.append_many(lines[position : position + PEER_GROUP])
        store.close()
        one.add(name, repeats * len(lines) / (time.perf_counter() - started))
        subprocess.run(["rm", "-rf", str(directory / name)], check=True)


def _burst(session: Session) -> None:
    """A burst into a running daemon whose WAL has room for it, in blocks written before."""
    count = session.options.scaled(2_000_000, 200_000)
    one = session.measurement(
        "ingest/burst",
        f"a burst of {count:,} lines of 200 B through a pipe that fits memory and WAL, to exit",
        "lines/s",
        floor=BARE_COPY,
        lines=count,
    )
    with session.scratch("burst") as directory:
        lines, store = directory / "lines", directory / "store"
        write_lines(lines, count, 200)
        _prepare_segments(store, lines)
        for _ in session.rounds(session.options.heavy_rounds, one):
            one.add(FLOOR, count / _copy_seconds(directory / "floor", lines, "pipe"))
            with Daemon(store, "--stdin", **SETTINGS_OF_BURST) as daemon:
                started = time.perf_counter()
                with lines.open("rb") as content:
                    subprocess.run(["cat"], stdin=content, stdout=daemon.stdin, check=True)
                daemon.finish()
                one.add(KIFA, count / (time.perf_counter() - started))
            _empty_wal(store)


def _prepare_segments(store: Path, lines: Path) -> None:
    with lines.open("rb") as content:
        command = [*installation().kifa, "daemon", "--stdin", "-d", str(store)]
        run(command, stdin=content, env=environment(**SETTINGS_OF_BURST))
    _empty_wal(store)


def _empty_wal(store: Path) -> None:
    """Move all entries to tables, so that the segments are used again."""
    settings: dict[str, Any] = {name.lower(): value for name, value in SETTINGS_OF_BURST.items()}
    own = KifaStore(store, **settings)
    own.log.append(b"x")
    own.log.flush()
    own.close()


def _lone_line(session: Session) -> None:
    one = session.measurement(
        "ingest/lone-line",
        "a lone line on standard input, from write to ack",
        "us",
        higher_is_better=False,
        floor="C loop: one block, O_DIRECT and fdatasync",
    )
    count, line = session.options.scaled(500, 100), b"x" * 200 + b"\n"
    with session.scratch("lone") as directory:
        # So that the segments of its log are used again, as on any day but the first.
        write_lines(directory / "lines", LINES_BEFORE, 200)
        with (directory / "lines").open("rb") as content:
            run(
                [*installation().kifa, "daemon", "--stdin", "-d", str(directory / "store")],
                stdin=content,
            )
        _lone_rounds(session, one, directory, count, line)


def _lone_rounds(
    session: Session, one: Measurement, directory: Path, count: int, line: bytes
) -> None:
    with (
        FloorFile(str(directory / "floor")) as floor,
        Daemon(directory / "store", "--stdin", "--ack") as daemon,
    ):
        reading, writing = daemon.stdout.fileno(), daemon.stdin.fileno()

        def send() -> Turn:
            clock, latencies = time.perf_counter, []
            for _ in range(count):
                started = clock()
                os.write(writing, line)
                answer = os.read(reading, 64)
                latencies.append(clock() - started)
                assert answer.startswith(b"ACK "), answer
            return Turn(count, sum(latencies), latencies)

        # A rate of one at a time is not what is asked for: the series has the medians.
        for _ in session.rounds(session.options.rounds, one):
            for name, work in ((FLOOR, partial(floor_timed, floor, 200, count)), (KIFA, send)):
                turn = work()
                one.add_latencies(name, turn.latencies)
                one.add(name, sorted(turn.latencies)[count // 2] * 1e6)
        daemon.finish()


def _compaction_stall(session: Session) -> None:
    """Appends of one thread while another joins tables."""
    size = session.options.scaled(1 << 30, 64 << 20)
    one = session.measurement(
        "ingest/compaction-stall",
        f"append 200 B while {size >> 20:,} MiB are compacted",
        floor="C loop: one block, O_DIRECT and fdatasync, before the compaction",
        size_bytes=size,
        condition="" if size >= 1 << 30 else f"{size >> 20} MiB only",
    )
    for _ in session.rounds(session.options.heavy_rounds, one):
        with session.scratch("stall") as directory:
            make_tables(directory / KIFA, size, tables=4, compressible=False)
            with FloorFile(str(directory / "floor")) as floor:
                turn = floor_timed(floor, 200, session.options.scaled(2_000, 200))
                one.add_latencies(FLOOR, turn.latencies)
                one.add(FLOOR, turn.entries / turn.seconds)
            _append_beside(directory, one)


def _append_beside(directory: Path, one: Measurement) -> None:
    store = KifaStore(directory / KIFA, compaction_enabled=False)
    warm_up(store, 48 << 20)
    store.log.flush()
    failures: list[BaseException] = []
    turns: list[Turn] = []

    def compact() -> None:
        try:
            store.log.compact()
        except BaseException as error:
            failures.append(error)

    try:
        before = len(list((directory / KIFA / "sst").iterdir()))
        worker = threading.Thread(target=compact)
        started = time.perf_counter()
        worker.start()
        while worker.is_alive():
            turns.append(append_timed(store, b"x" * 200, 50))
        one.parameters.setdefault("compaction_seconds", []).append(time.perf_counter() - started)
        worker.join()
        if failures:
            raise failures[0]
        assert len(list((directory / KIFA / "sst").iterdir())) < before, "nothing was compacted"
    finally:
        store.close()
    for turn in turns:
        one.add_latencies(KIFA, turn.latencies)
    one.add(KIFA, sum(turn.entries for turn in turns) / sum(turn.seconds for turn in turns))
