"""Appending through the library: sizes, flush modes, groups, threads, and over 100,000 entries."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from bench._floor import FloorFile
from bench.peers import NORMAL_GROUP, Store
from bench.results import FLOOR, KIFA, Measurement
from bench.session import Session, Turn, mark_peers, open_stores

# Enough to write every block of a few segments once, so that later ones are recycled.
WARM_UP_BYTES = 96 << 20
LONG_SLICE = 5_000
BARE_WRITE = "C loop: O_DIRECT into written blocks and fdatasync, as many bytes"


def measure(session: Session) -> None:
    """Measure everything of this area."""
    options = session.options
    with session.scratch("append") as directory, FloorFile(str(directory / "floor")) as floor:
        for mode in _first(options.mode, options.modes):
            with open_stores(session, directory / mode, mode) as stores:
                warm_up(stores[KIFA], options.scaled(WARM_UP_BYTES, 48 << 20))
                sizes = options.sizes if mode == options.mode else (options.entry_size,)
                for size in sizes:
                    _singles(session, floor, stores, mode, size)
                if mode == options.mode:
                    _groups(session, floor, stores)
                    _threads(session, floor, stores)
    over_many(session)


def _first(chosen: str, names: Sequence[str]) -> Iterator[str]:
    yield chosen
    yield from (name for name in names if name != chosen)


def warm_up(store: Store, size_bytes: int) -> None:
    """Let a store live for a while: the segments of its log are then used again, and their blocks were written."""
    data = [bytes(1000)] * 500
    for _ in range(size_bytes // 500_000):
        store.append_many(data)


def append_timed(store: Store, data: bytes, count: int) -> Turn:
    """Append ``count`` times, and return how long each took."""
    append, clock = store.append, time.perf_counter
    moments = [clock()]
    for _ in range(count):
        append(data)
        moments.append(clock())
    store.sync()
    seconds = clock() - moments[0]
    pairs = zip(moments[1:], moments, strict=False)
    return Turn(count, seconds, [after - before for after, before in pairs])


def floor_timed(floor: FloorFile, size_bytes: int, count: int, entries: int = 1) -> Turn:
    """Write ``count`` times what ``entries`` entries hold."""
    latencies = floor.write(size_bytes, count)
    return Turn(count * entries, sum(latencies), latencies)


def _singles(
    session: Session, floor: FloorFile, stores: dict[str, Store], mode: str, size: int
) -> None:
    one = session.measurement(
        f"append/{mode}/{size}/1",
        f"append {size} B, {mode}, 1 thread",
        floor=BARE_WRITE + (f" for each {NORMAL_GROUP} entries" if mode == "normal" else ""),
        size_bytes=size,
        mode=mode,
        group=1,
        threads=1,
    )
    count, data = session.options.scaled(400, 100), b"x" * size
    grouped = NORMAL_GROUP if mode == "normal" else 1
    writes = max(count // grouped, 4)
    subjects = {FLOOR: partial(floor_timed, floor, size * grouped, writes, grouped)}
    for name, store in stores.items():
        subjects[name] = partial(append_timed, store, data, count)
    session.take_turns(one, subjects)
    mark_peers(one)


def _groups(session: Session, floor: FloorFile, stores: dict[str, Store]) -> None:
    size = session.options.entry_size
    for group in (group for group in session.options.groups if group > 1):
        one = session.measurement(
            f"append_many/{group}",
            f"append_many of {group:,} x {size} B, {session.options.mode}",
            floor=BARE_WRITE,
            size_bytes=size,
            mode=session.options.mode,
            group=group,
            threads=1,
        )
        items = [b"x" * size] * group
        repeats = max(session.options.scaled(40_000, 5_000) // group, 4)
        with FloorFile(floor_path(session), size * group) as own:
            subjects = {FLOOR: partial(floor_timed, own, size * group, repeats, group)}
            for name, store in stores.items():
                subjects[name] = partial(_batches, store, items, repeats)
            session.take_turns(one, subjects)
        mark_peers(one)


def floor_path(session: Session) -> str:
    """Return where a floor of its own may write."""
    return str(session.directory / "own-floor")


def _batches(store: Store, items: list[bytes], repeats: int) -> Turn:
    clock, latencies = time.perf_counter, []
    for _ in range(repeats):
        started = clock()
        store.append_many(items)
        latencies.append(clock() - started)
    return Turn(repeats * len(items), sum(latencies), latencies)


def _threads(session: Session, floor: FloorFile, stores: dict[str, Store]) -> None:
    size, mode = session.options.entry_size, session.options.mode
    data = b"x" * size
    for threads in (count for count in session.options.clients if count > 1):
        one = session.measurement(
            f"threads/{threads}",
            f"append {size} B, {mode}, {threads} threads of one process",
            floor=f"{BARE_WRITE}, one thread",
            size_bytes=size,
            mode=mode,
            group=1,
            threads=threads,
        )
        each = max(session.options.scaled(8_000, 1_000) // threads, 8)
        bare = session.options.scaled(400, 100)
        subjects = {FLOOR: partial(floor_timed, floor, size, bare)}
        for name, store in stores.items():
            count = each if name == KIFA else max(each // 8, 4)
            subjects[name] = partial(in_threads, store, threads, data, count)
        session.take_turns(one, subjects, turns=2)
        mark_peers(one)


def in_threads(shared: Store, threads: int, data: bytes, count: int) -> Turn:
    """Append ``count`` times in each of so many threads."""
    stores = [shared.for_thread() for _ in range(threads)]
    turns: list[Turn] = []
    failures: list[BaseException] = []
    start = threading.Barrier(len(stores) + 1)

    def work(store: Store) -> None:
        start.wait()
        try:
            turns.append(append_timed(store, data, count))
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(store,)) for store in stores]
    for worker in workers:
        worker.start()
    start.wait()
    started = time.perf_counter()
    for worker in workers:
        worker.join()
    seconds = time.perf_counter() - started
    for store in stores:
        if store is not shared:
            store.close()
    if failures:
        raise failures[0]
    return Turn(count * len(stores), seconds, [value for turn in turns for value in turn.latencies])


def over_many(session: Session) -> None:
    """Append one by one to a new store until flushes, rotations and compactions are part of it."""
    size, mode = session.options.entry_size, session.options.mode
    total = session.options.scaled(100_000, 2_000)
    one = session.measurement(
        "append/over-many",
        f"append {size} B, {mode}, {total:,} into a new store, flushes included",
        floor=f"{BARE_WRITE}, in turns with it",
        size_bytes=size,
        mode=mode,
        entries=total,
    )
    for _ in session.rounds(session.options.heavy_rounds, one):
        with session.scratch("over-many") as directory:
            _one_long_round(session, directory, one, total)


def _one_long_round(session: Session, directory: Path, one: Measurement, total: int) -> None:
    size, done = session.options.entry_size, 0
    data, step = b"x" * size, min(LONG_SLICE, total // 2)
    seconds = {KIFA: 0.0, FLOOR: 0.0}
    with (
        open_stores(session, directory, session.options.mode, peers=()) as stores,
        FloorFile(str(directory / "floor")) as floor,
    ):
        while done < total:
            for name, turn in (
                (FLOOR, floor_timed(floor, size, step)),
                (KIFA, append_timed(stores[KIFA], data, step)),
            ):
                seconds[name] += turn.seconds
                one.add_latencies(name, turn.latencies)
            done += step
    for name, spent in seconds.items():
        one.add(name, done / spent)
