"""Verification reads every byte: each flipped bit of a store is found, or is in bytes that mean nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import kifa
from kifa.errors import NotAStoreError
from kifa.verify import verify_store
from tests.stores import files_of, make_store, retire_log, sample


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    make_store(path, [sample(5, seed=1), sample(5, seed=2), sample(5, seed=3)])
    return path


def test_an_intact_store(store: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = verify_store(store, lambda done, total: seen.append((done, total)))
    assert report.intact
    assert (report.entries, report.lost, report.damage) == (15, (), ())
    assert report.to_text().endswith(" 15 entries: no damage\n")
    assert report.bytes_read == sum(
        len(c) for p, c in files_of(store).items() if p.suffix in {".sst", ".wal"}
    )
    assert seen == sorted(seen)
    assert seen[-1] == (report.bytes_read, report.bytes_read)
    assert json.loads(json.dumps(report.to_dict()))["intact"] is True


def test_every_flipped_bit_in_tables_and_manifest_is_found(store: Path) -> None:
    for file, content in files_of(store).items():
        if file.suffix == ".sst" or file.name == "manifest":
            for offset in range(0, len(content), 3):
                flipped = bytearray(content)
                flipped[offset] ^= 1 << offset % 8
                file.write_bytes(flipped)
                report = verify_store(store)
                assert not report.intact
                assert report.damage[0].file == str(file.relative_to(store))
                assert report.lost == ()  # the WAL still has everything
                assert report.entries == 15
            file.write_bytes(content)


def test_lost_entries_are_counted_and_named(store: Path) -> None:
    retire_log(store)
    first = sorted((store / "sst").iterdir())[0]
    content = bytearray(first.read_bytes())
    content[150] ^= 1
    first.write_bytes(content)
    report = verify_store(store)
    assert report.lost == ((1, 5),)
    assert report.entries == 11
    (damage,) = report.damage
    assert (damage.file, damage.first_lsn, damage.last_lsn) == (f"sst/{first.name}", 1, 5)
    assert str(damage) in report.to_text()
    assert "1 damaged, 5 entries lost" in report.to_text()


def test_losses_that_a_writer_recorded_stay_named(store: Path) -> None:
    retire_log(store)
    first = sorted((store / "sst").iterdir())[0]
    first.unlink()
    with kifa.open(store) as log:  # the writer notes what is gone, and goes on
        log.append(b"more")
        log.flush()
    report = verify_store(store)
    assert report.lost == ((1, 5),)
    assert [(item.first_lsn, item.last_lsn) for item in report.damage] == [(1, 5)]


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(NotAStoreError):
        verify_store(tmp_path)
