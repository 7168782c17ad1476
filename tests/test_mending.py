"""Tables that rot while other files still have their entries."""

from __future__ import annotations

import errno
import logging
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kifa
from kifa.sstable_format import BLOCK_HEADER_SIZE, HEADER_SIZE
from kifa.stats import collect_stats
from kifa.verify import verify_store
from tests.lazyfs.conftest import MountFactory, mount
from tests.reading import read_all
from tests.stores import lsns_named, make_store, retire_log, sample
from tests.stores import read_all as read_with_damage

__all__ = ["mount"]

PATIENCE_SECONDS = 60.0


class Told(logging.Handler):
    """What the threads of a log say, to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.put(record.getMessage())

    def wait_for(self, part: str) -> str:
        """Return the next line with ``part`` in it."""
        while part not in (line := self.lines.get(timeout=PATIENCE_SECONDS)):
            pass
        return line


@pytest.fixture
def told() -> Iterator[Told]:
    handler = Told()
    logging.getLogger("kifa").addHandler(handler)
    yield handler
    logging.getLogger("kifa").removeHandler(handler)


def tables_of(store: Path) -> list[Path]:
    return sorted((store / "sst").glob("*.sst"))


def rot(path: Path, offset: int = HEADER_SIZE + BLOCK_HEADER_SIZE + 100) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


def join_and_keep_inputs(store: Path, tmp_path: Path) -> tuple[Path, set[str]]:
    """Join the tables, and let the inputs be there still; return the joined table and the names of the inputs."""
    retire_log(store)
    shutil.copytree(store / "sst", tmp_path / "inputs")
    with kifa.open(store, segment_size_mib=1, compaction_threshold=2) as log:
        log.compact()
    (joined,) = tables_of(store)
    inputs = {path.name for path in (tmp_path / "inputs").iterdir()}
    shutil.copytree(tmp_path / "inputs", store / "sst", dirs_exist_ok=True)
    return joined, inputs


def data_of(store: Path) -> list[bytes]:
    return [data for _, data in read_all(store)]


def test_what_the_log_still_has_is_mended_before_its_segment_is_used_again(store: Path) -> None:
    expected = make_store(store, [sample(200, 300), sample(200, 300, seed=1)], flush_last=True)
    rot(tables_of(store)[0])
    with kifa.open(store, segment_size_mib=1, compaction_threshold=2) as log:
        log.compact()
        log.append(b"later")
        log.flush()
    retire_log(store)
    assert data_of(store) == [*expected, b"later", b"one more"]
    assert verify_store(store).intact


def test_a_joined_table_that_rots_is_mended_from_inputs_that_are_left(
    store: Path, tmp_path: Path
) -> None:
    expected = make_store(store, [sample(200, 300), sample(200, 300, seed=1)], flush_last=True)
    joined, _ = join_and_keep_inputs(store, tmp_path)
    rot(joined)
    with kifa.open(store, segment_size_mib=1, compaction_enabled=False) as log:
        log.append(b"later")
        log.flush()
    assert data_of(store) == [*expected, b"one more", b"later"]
    assert verify_store(store).intact
    assert tables_of(store)[0] == joined
    assert len(tables_of(store)) == 2


def test_metadata_that_rots_keeps_the_inputs_too(store: Path, tmp_path: Path) -> None:
    expected = make_store(store, [sample(200, 300), sample(200, 300, seed=1)], flush_last=True)
    joined, inputs = join_and_keep_inputs(store, tmp_path)
    rot(joined, joined.read_bytes().index(b'{"sources"'))
    with kifa.open(store, segment_size_mib=1, compaction_enabled=False) as log:
        assert log.damage
    assert inputs <= {path.name for path in tables_of(store)}
    assert data_of(store) == [*expected, b"one more"]


def test_what_nobody_has_stays_named(store: Path) -> None:
    expected = make_store(store, [sample(200, 3000), sample(200, 300, seed=1)], flush_last=True)
    retire_log(store)
    rot(tables_of(store)[0])
    for _ in range(2):
        with kifa.open(store, segment_size_mib=1, compaction_threshold=2) as log:
            log.compact()
            log.append(b"later")
            log.flush()
        entries, damage = read_with_damage(store)
        served = {entry.lsn: entry.data for entry in entries}
        lost = set(range(1, 401)) - served.keys()
        assert lost
        assert lost <= lsns_named(damage)
        assert all(served[lsn] == expected[lsn - 1] for lsn in served if lsn <= 400)


@pytest.mark.parametrize("again", [1, 2])
def test_a_table_that_comes_back_after_its_neighbours_were_joined_is_kept(
    store: Path, tmp_path: Path, again: int
) -> None:
    runs = [sample(100, 300, seed=seed) for seed in range(3)]
    expected = make_store(store, runs, flush_last=True)
    retire_log(store)
    away = tables_of(store)[1].rename(tmp_path / tables_of(store)[1].name)
    with kifa.open(store, segment_size_mib=1, compaction_threshold=2) as log:
        log.compact()
    away.rename(store / "sst" / away.name)
    for _ in range(again):
        with kifa.open(store, segment_size_mib=1, compaction_threshold=2) as log:
            log.compact()
    assert data_of(store) == [*expected, b"one more"]


def two_tables_and_their_log(store: Path) -> list[bytes]:
    """All of it in one segment, which is recycled with the first flush of the next writer."""
    runs = [sample(150, 3000, seed=seed) for seed in range(2)]
    return make_store(store, runs, flush_last=True)


@pytest.mark.parametrize("offset", [100, -200])
def test_what_reads_back_damaged_takes_no_place(
    store: Path, monkeypatch: pytest.MonkeyPatch, told: Told, offset: int
) -> None:
    """The disk keeps another byte than was written; the damaged table still has most of its entries."""
    two_tables_and_their_log(store)
    table = tables_of(store)[0]
    rot(table)
    before = table.read_bytes()
    fsync = os.fsync

    def fsync_of_a_bad_disk(descriptor: int) -> None:
        fsync(descriptor)
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        if name == "flush.sst.tmp":
            size = os.fstat(descriptor).st_size
            place = HEADER_SIZE + BLOCK_HEADER_SIZE + offset if offset > 0 else size + offset
            byte = os.pread(descriptor, 1, place)
            os.pwrite(descriptor, bytes([byte[0] ^ 1]), place)

    monkeypatch.setattr(os, "fsync", fsync_of_a_bad_disk)
    with kifa.open(store, segment_size_mib=1, compaction_threshold=2) as log:
        log.compact()  # finds the damage
        assert "reads back damaged" in told.wait_for("cannot be mended yet")
        assert table.read_bytes() == before
        assert tables_of(store)[0] == table
        monkeypatch.undo()


def segments_of(store: Path) -> list[str]:
    return sorted(path.name for path in (store / "wal").glob("*.wal"))


def go_on(log: kifa.Log, segments: int) -> list[bytes]:
    """Fill so many segments, of which each part comes to a table."""
    written = []
    for _ in range(segments):
        items = [b"%d " % (log.last_lsn + 1 + n) + bytes(90_000) for n in range(10)]
        log.append_many(items)
        log.flush()
        written += items
    return written


def no_mending(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_mend_that_fails_keeps_the_segments_it_needs_and_no_others(
    store: Path, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    """Neither may the disk fill up, nor may what the damaged table lost go."""
    expected = two_tables_and_their_log(store)
    needed = segments_of(store)[0]
    rot(tables_of(store)[0])
    monkeypatch.setattr("kifa.table_set.mend_table", no_mending)
    with kifa.open(store, segment_size_mib=1, compaction_threshold=2) as log:
        log.compact()
        assert os.strerror(errno.EIO) in told.wait_for("cannot be mended yet")
        expected += go_on(log, 8)
        assert segments_of(store)[0] == needed
        assert len(segments_of(store)) <= 3
    kept = [
        damage for damage in collect_stats(store).damage if "cannot be mended yet" in str(damage)
    ]
    assert kept
    assert 1 <= (kept[0].first_lsn or 0) <= 150
    stats = subprocess.run(
        [sys.executable, "-m", "kifa", "stats", "-d", str(store)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert stats.returncode == kifa.ExitCode.DAMAGED
    assert b"cannot be mended yet" in stats.stdout
    assert data_of(store) == expected, "the log still has it"
    assert not verify_store(store).lost
    assert {damage.kind for damage in verify_store(store).damage} == {"corruption"}
    # The next writer knows what waits, and keeps it as well.
    with kifa.open(store, segment_size_mib=1, compaction_threshold=2) as log:
        told.wait_for("cannot be mended yet")
        expected += go_on(log, 3)
        assert segments_of(store)[0] == needed
    monkeypatch.undo()
    with kifa.open(store, segment_size_mib=1, compaction_threshold=2) as log:
        told.wait_for("written anew")
        expected += go_on(log, 1)
        assert segments_of(store)[0] != needed
    assert data_of(store) == expected
    assert verify_store(store).intact
    assert not collect_stats(store).damage


def test_a_table_is_mended_when_there_is_space_again(
    mount: MountFactory, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    monkeypatch.setattr("kifa.mending.FIRST_DELAY_SECONDS", 0.1)
    monkeypatch.setattr("kifa.mending.MAX_DELAY_SECONDS", 0.2)
    disk = mount("--profile", "posix-strict")
    store = disk.path / "store"
    expected = two_tables_and_their_log(store)
    rot(tables_of(store)[0])
    with kifa.open(
        store, segment_size_mib=1, compaction_threshold=2, compaction_enabled=False
    ) as log:
        used = disk.command("status")["used_bytes"]
        assert isinstance(used, int)
        disk.command("quota", bytes=used + 350_000)  # the table has 450,000
        log.compact()
        assert os.strerror(errno.ENOSPC) in told.wait_for("cannot be mended yet")
        expected += go_on(log, 1)
        disk.command("quota", bytes=None)
        told.wait_for("written anew")
    disk.power_loss()
    assert data_of(store) == expected
    assert verify_store(store).intact
