"""What Kifa takes: device writes, bytes at rest, memory, wake-ups, start-up."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from bench._floor import FloorFile
from bench.append import WARM_UP_BYTES, in_threads, warm_up
from bench.installation import installation
from bench.lines import different_lines, write_lines
from bench.loop_device import LoopDevice, NoLoopDevice
from bench.peers import PEERS, KifaStore
from bench.process import Daemon, feeding, run
from bench.results import FLOOR, KIFA, Measurement
from bench.session import Session, mark_peers, size_on_disk

DEVICE_SIZE_BYTES = 1 << 30
ONE_BLOCK = "C loop: one block, O_DIRECT and fdatasync"


def measure(session: Session) -> None:
    """Measure everything of this area."""
    _device_bytes(session)
    _life(session)
    _at_rest(session)
    _memory(session)
    _idle(session)
    _start(session)


def _device_bytes(session: Session) -> None:
    for senders in (1, 8):
        one = session.measurement(
            f"footprint/device/{senders}",
            f"written to the device for each durable entry of 200 B, {senders} sender(s)",
            "B",
            higher_is_better=False,
            floor=ONE_BLOCK,
            senders=senders,
        )
        with session.scratch("device") as directory:
            try:
                with LoopDevice(directory, DEVICE_SIZE_BYTES) as device:
                    one.parameters["counted_by"] = (
                        "/sys/block/*/stat of a private loop device, ext4"
                    )
                    _device_rounds(session, one, device.mount_point, device.written_bytes, senders)
            except NoLoopDevice as reason:
                one.parameters["counted_by"] = f"/proc/self/io ({reason})"
                _device_rounds(session, one, directory, written_by_this_process, senders)
        mark_peers(one)


def written_by_this_process() -> int:
    """Return the bytes that this process had written to devices."""
    os.sync()
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def _device_rounds(
    session: Session, one: Measurement, directory: Path, written: object, senders: int
) -> None:
    assert callable(written)
    count = session.options.scaled(40_000, 1_600)  # enough for two flushes
    for _ in session.rounds(session.options.scaled(min(session.options.rounds, 2), 1), one):
        with FloorFile(str(directory / "floor")) as floor:
            before = written()
            floor.write(200, count // 8)
            one.add(FLOOR, (written() - before) / (count // 8))
        for name in (KIFA, *session.options.peers):
            path = directory / name
            store = KifaStore(path) if name == KIFA else PEERS[name](path)
            warm_up(store, WARM_UP_BYTES if isinstance(store, KifaStore) else 5_000_000)
            if isinstance(store, KifaStore):
                store.log.flush()
            entries = count if name == KIFA else count // 8
            before = written()
            in_threads(store, senders, b"x" * 200, entries // senders)
            store.close()
            one.add(name, (written() - before) / entries)
            subprocess.run(["rm", "-rf", str(path)], check=True)


def _life(session: Session) -> None:
    """All that is written for a long life: WAL, flushes, compaction, and the file system's own."""
    size = (10 << 30) if session.options.long else session.options.scaled(1 << 30, 64 << 20)
    count = size // 200
    one = session.measurement(
        "footprint/life",
        f"written for each byte logged, {size / (1 << 30):.3g} GiB through the daemon",
        "B",
        higher_is_better=False,
        entries=count,
        condition="" if size >= 10 << 30 else f"{size / (1 << 30):.3g} GiB only",
    )
    with session.scratch("life") as directory:
        lines = directory / "lines"
        block = min(count, len(different_lines(200)))
        write_lines(lines, block, 200)
        repeats = -(-count // block)
        for _ in session.rounds(1, one):
            try:
                with LoopDevice(directory, max(2 * size, 1 << 30)) as device:
                    before = device.written_bytes()
                    _feed(lines, repeats, device.mount_point / "store")
                    written = device.written_bytes() - before
                    one.parameters["counted_by"] = (
                        "/sys/block/*/stat of a private loop device, ext4"
                    )
            except NoLoopDevice as reason:
                written = _feed(lines, repeats, directory / "store")
                one.parameters["counted_by"] = f"getrusage ({reason})"
            one.add(KIFA, written / (repeats * block * 200))


def _feed(lines: Path, repeats: int, store: Path) -> int:
    script = 'i=0; while [ "$i" -lt "$1" ]; do cat "$2"; i=$((i + 1)); done'
    with feeding(["sh", "-c", script, "sh", str(repeats), str(lines)]) as stream:
        command = [*installation().kifa, "daemon", "--stdin", "-d", str(store)]
        return run(command, stdin=stream).written_bytes


def _at_rest(session: Session) -> None:
    """Generated transactions of their own length, after compaction, as part of their bytes."""
    count = session.options.scaled(1_000_000, 100_000)
    lines = different_lines(None)
    one = session.measurement(
        "footprint/at-rest",
        f"at rest: {count:,} generated transactions, bytes on disk for each byte",
        "B",
        higher_is_better=False,
        entries=count,
    )
    for _ in session.rounds(1, one):
        with session.scratch("rest") as directory:
            for name in (KIFA, *session.options.peers):
                path, raw, done = directory / name, 0, 0
                store = KifaStore(path) if name == KIFA else PEERS[name](path)
                while done < count:
                    items = lines[done % len(lines) :][: min(5_000, count - done)]
                    store.append_many(items)
                    raw += sum(map(len, items))
                    done += len(items)
                if isinstance(store, KifaStore):
                    store.log.flush()
                    store.log.compact()
                store.close()
                # The WAL of Kifa holds nothing then: its segments are there to be used again.
                kept = path / "sst" if name == KIFA else path
                one.add(name, size_on_disk(kept) / raw)
                if name == KIFA:
                    one.parameters["wal_mib"] = size_on_disk(path / "wal") / (1 << 20)
    mark_peers(one)


def _memory(session: Session) -> None:
    """The daemon on an empty store, and at its peak under full load."""
    resident = session.measurement(
        "footprint/rest-resident", "daemon at rest, resident", "MiB", higher_is_better=False
    )
    private = session.measurement(
        "footprint/rest-private", "daemon at rest, private", "MiB", higher_is_better=False
    )
    load = session.measurement(
        "footprint/load", "daemon at full load, peak resident", "MiB", higher_is_better=False
    )
    count = session.options.scaled(2_000_000, 200_000)
    with session.scratch("memory") as directory:
        lines = directory / "lines"
        write_lines(lines, count, 200)
        for number in session.rounds(session.options.heavy_rounds, load):
            with Daemon(directory / f"store{number}", "--stdin") as daemon:
                resident.add(KIFA, daemon.status("VmRSS") / 1024)
                private.add(KIFA, daemon.private_kib() / 1024)
                with lines.open("rb") as content:
                    subprocess.run(["cat"], stdin=content, stdout=daemon.stdin, check=True)
                load.add(KIFA, daemon.status("VmHWM") / 1024)
                daemon.finish()


def _idle(session: Session) -> None:
    """All kinds of sources open, nothing to do."""
    resident = session.measurement(
        "footprint/idle-all",
        "idle daemon, all sources open, resident",
        "MiB",
        higher_is_better=False,
    )
    seconds = session.options.scaled(10, 2)
    wake_ups = session.measurement(
        "footprint/wake-ups",
        f"idle daemon, all sources open, wake-ups in {seconds} s",
        "",
        higher_is_better=False,
        condition="" if seconds >= 10 else f"in {seconds} s",
    )
    with session.scratch("idle") as directory:
        sources = ["--stdin", "--tcp", "127.0.0.1:0", "--udp", "127.0.0.1:0"]
        sources += ["--unix", str(directory / "socket"), "--file", str(directory / "tail")]
        with Daemon(directory / "store", *sources) as daemon:
            time.sleep(0.5)  # what start-up still has to do
            before = daemon.wake_ups()
            time.sleep(seconds)
            wake_ups.add(KIFA, daemon.wake_ups() - before)
            resident.add(KIFA, daemon.status("VmRSS") / 1024)
            daemon.stop()


def _start(session: Session) -> None:
    """`kifa --version`, and a daemon from start to ready, beside the bare interpreter."""
    version, ready = (
        session.measurement(
            f"footprint/{name}", what, "ms", higher_is_better=False, floor="`python -c pass`"
        )
        for name, what in (
            ("version", "`kifa --version`"),
            ("ready", "`kifa daemon` on an empty store, start to ready"),
        )
    )
    with session.scratch("start") as directory:
        for number in session.rounds(max(2 * session.options.rounds, 5), version):
            bare = run([installation().python, "-c", "pass"]).seconds * 1e3
            version.add(FLOOR, bare)
            version.add(KIFA, run([*installation().kifa, "--version"]).seconds * 1e3)
            ready.add(FLOOR, bare)
            with Daemon(directory / str(number), "--stdin") as daemon:
                ready.add(KIFA, daemon.seconds_to_ready * 1e3)
                daemon.finish()
