"""Tables that rot while other files still have their entries."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import kifa
from kifa.sstable_format import BLOCK_HEADER_SIZE, HEADER_SIZE
from kifa.verify import verify_store
from tests.reading import read_all
from tests.stores import lsns_named, make_store, retire_log, sample
from tests.stores import read_all as read_with_damage


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


@pytest.mark.parametrize("offset", [100, -200])
def test_what_reads_back_damaged_takes_no_place(
    store: Path, monkeypatch: pytest.MonkeyPatch, offset: int
) -> None:
    """The disk keeps another byte than was written; the damaged table still has most of its entries."""
    make_store(store, [sample(200, 3000), sample(200, 300, seed=1)], flush_last=True)
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

    with kifa.open(store, segment_size_mib=1, compaction_threshold=2) as log:
        monkeypatch.setattr(os, "fsync", fsync_of_a_bad_disk)
        log._tables._to_mend.add(table.name)
        with pytest.raises(kifa.DamagedError, match="reads back damaged"):
            log._tables.mend()
        assert table.read_bytes() == before
        assert tables_of(store)[0] == table
        monkeypatch.undo()
