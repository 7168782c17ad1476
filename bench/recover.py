"""Reopening after a kill and after a clean close, and what reopening and compaction cost as a store grows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench._floor import FloorFile
from bench.peers import PEERS, KifaStore, Store
from bench.process import CommandError
from bench.results import FLOOR, KIFA, Measurement
from bench.session import Session, mark_peers
from bench.tables import ENTRY_SIZE, make_tables

LARGE = {"memtable_flush_threshold_mib": 1024, "segment_size_mib": 128}
PEER_ENTRIES = 100_000
READ_SIZE = 1 << 20
BARE_READ = "read(2) of the files of the log, which were written past the page cache"


def measure(session: Session) -> None:
    """Measure everything of this area."""
    scaled = session.options.scaled
    _reopenings(session, "kill", "after a kill, default settings", {}, scaled(300_000, 20_000))
    _reopenings(session, "unflushed", "after a kill", LARGE, scaled(1_000_000, 100_000))
    _reopenings(session, "clean", "after a clean close", {}, scaled(300_000, 20_000))
    _growing(session)


def _reopenings(
    session: Session, name: str, how: str, settings: dict[str, Any], entries: int
) -> None:
    one = session.measurement(
        f"recover/{name}",
        f"reopen {how}, {entries:,} entries" + (" un-flushed" if settings else ""),
        "ms",
        higher_is_better=False,
        floor=BARE_READ,
        entries=entries,
        peer_entries=min(entries, PEER_ENTRIES),
        condition=""
        if name != "unflushed" or entries >= 1_000_000
        else f"{entries:,} entries only",
    )
    end = "close" if name == "clean" else "kill"
    for _ in session.rounds(session.options.rounds, one):
        with session.scratch("reopen") as directory:
            fill(KIFA, directory / KIFA, end, entries, settings)
            one.add(FLOOR, _read_files(directory / KIFA / "wal") * 1e3)
            one.add(KIFA, _open_ms(KIFA, directory / KIFA, settings))
            for peer in session.options.peers if name == "kill" else ():
                fill(peer, directory / peer, end, min(entries, PEER_ENTRIES), {})
                one.add(peer, _open_ms(peer, directory / peer, {}))
    mark_peers(one)


def fill(name: str, path: Path, end: str, entries: int, settings: dict[str, Any]) -> None:
    """Fill a store in a process of its own that ends with ``end``: "kill" or "close"."""
    arguments = [name, str(path), end, str(entries), json.dumps(settings)]
    command = [sys.executable, "-m", "bench.recover", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != (-signal.SIGKILL if end == "kill" else 0):
        raise CommandError(f"filling a store of {name} failed: {result.stderr.strip()}")


def open_store(name: str, path: Path, settings: dict[str, Any]) -> Store:
    """Open the store of Kifa or of a peer."""
    return KifaStore(path, **settings) if name == KIFA else PEERS[name](path)


def _open_ms(name: str, path: Path, settings: dict[str, Any]) -> float:
    """Return how long it takes until the last entry was read and the next could be written."""
    started = time.perf_counter()
    store = open_store(name, path, settings)
    store.last()
    seconds = time.perf_counter() - started
    store.close()
    return seconds * 1e3


def _read_files(directory: Path) -> float:
    """Return the seconds that reading takes, and leave nothing of it in the cache for whoever reads next."""
    buffer = bytearray(READ_SIZE)
    started = time.perf_counter()
    for path in directory.iterdir():
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    seconds = time.perf_counter() - started
    for path in directory.iterdir():
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return seconds


def _growing(session: Session) -> None:
    """Reopening and compaction of stores of growing size."""
    sizes_mib = [16, 64, 256, 1024]
    if session.options.quick:
        sizes_mib = [16, 64]
    elif session.options.long:
        sizes_mib += [4096, 10_240]
    for size_mib in sizes_mib:
        reopening = session.measurement(
            f"recover/size/{size_mib}",
            f"reopen {size_mib:,} MiB of entries after a kill",
            "ms",
            higher_is_better=False,
            floor=BARE_READ,
            size_mib=size_mib,
        )
        joining = session.measurement(
            f"recover/compaction/{size_mib}",
            f"compact {size_mib:,} MiB of entries",
            "ms",
            higher_is_better=False,
            floor="C loop: the tables read, written and synced in pieces of 1 MiB",
            size_mib=size_mib,
        )
        rounds = 1 if size_mib > 1024 else session.options.heavy_rounds
        for _ in session.rounds(rounds, reopening):
            with session.scratch("growing") as directory:
                _growing_round(directory, size_mib << 20, reopening, joining)


def _growing_round(
    directory: Path, size_bytes: int, reopening: Measurement, joining: Measurement
) -> None:
    store = directory / KIFA
    make_tables(store, size_bytes, tables=4)
    _kill_after_appends(store)
    reopening.add(FLOOR, _read_files(store / "wal") * 1e3)
    started = time.perf_counter()
    own = KifaStore(store, compaction_enabled=False)
    reopening.add(KIFA, (time.perf_counter() - started) * 1e3)
    try:
        with FloorFile(str(directory / "floor")) as floor:
            started = time.perf_counter()
            for path in sorted((store / "sst").iterdir()):
                with path.open("rb", buffering=0) as file:
                    floor.copy_from(file.fileno())
            joining.add(FLOOR, (time.perf_counter() - started) * 1e3)
        started = time.perf_counter()
        own.log.compact()
        joining.add(KIFA, (time.perf_counter() - started) * 1e3)
    finally:
        own.close()


def _kill_after_appends(store: Path) -> None:
    fill(KIFA, store, "kill", 20_000, {"compaction_enabled": False})


def main(arguments: list[str]) -> None:
    """Fill a store and end as told: a process of its own, so that it can be killed."""
    name, path, end, entries, settings_text = arguments
    settings = json.loads(settings_text)
    store = open_store(name, Path(path), settings)
    data, left = b"x" * ENTRY_SIZE, int(entries)
    singles = min(left // 100, 1_000)  # a log that is written to one by one has many groups
    while left > singles:
        left -= len(items := [data] * min(left - singles, 1_000))
        store.append_many(items)
    for _ in range(singles):
        store.append(data)
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    store.close()


if __name__ == "__main__":
    main(sys.argv[1:])
