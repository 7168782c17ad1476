"""Statistics: true counts over tables and WAL, in the documented layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kifa
from kifa._format import format_timestamp
from kifa.errors import NotAStoreError
from kifa.manifest import load_manifest
from kifa.sstable import Table
from kifa.sstable_format import TableMetadata
from kifa.sstable_writer import write_table
from kifa.stats import StoreStats, collect_stats, format_size
from tests.batches import batches_of, numbered
from tests.stores import make_store, read_all, retire_log, sample


def line_of(stats: StoreStats, name: str) -> str:
    (line,) = [line for line in stats.to_text().splitlines() if line.strip().startswith(name)]
    return line


def test_the_documented_layout(tmp_path: Path) -> None:
    make_store(tmp_path / "store", [[b'{"txn":"TXN-001","amount":5000}']])
    stats = kifa.reader(tmp_path / "store").stats()
    (entry,), _ = read_all(tmp_path / "store")
    stamp = format_timestamp(entry.timestamp_ms)
    lines = stats.to_text().splitlines()
    documented = [
        "Storage:",
        "  Total entries: 1",
        "  SSTables: 0 (checkpoint LSN: 0)",
        "  Memtable: 1 entries",
        "WAL:",
        "  Flush mode: Cautious",
        "Health:",
        f"  Time range: {stamp} - {stamp}",
        "  Gaps: none",
    ]
    assert [line for line in lines if line in documented] == documented


@settings(max_examples=15, deadline=None)
@given(runs=st.lists(st.integers(0, 50), min_size=1, max_size=5), flush_last=st.booleans())
def test_counts_are_true(
    tmp_path_factory: pytest.TempPathFactory, runs: list[int], flush_last: bool
) -> None:
    store = tmp_path_factory.mktemp("stats") / "store"
    make_store(store, [sample(count) for count in runs], flush_last=flush_last)
    stats = collect_stats(store)
    flushed = sum(runs if flush_last else runs[:-1])
    assert stats.total_entries == sum(runs) == stats.durable_lsn
    assert stats.checkpoint_lsn == flushed
    assert stats.memtable_entries == sum(runs) - flushed
    assert stats.tables == sum(1 for count in (runs if flush_last else runs[:-1]) if count)
    times = [entry.timestamp_ms for entry in read_all(store)[0]]
    assert stats.min_timestamp_ms == min(times, default=None)
    assert stats.max_timestamp_ms == max(times, default=None)
    assert stats.gaps == ()
    assert stats.damage == ()
    assert json.loads(json.dumps(stats.to_dict()))["total_entries"] == sum(runs)


def test_an_empty_store(tmp_path: Path) -> None:
    make_store(tmp_path / "store", [])
    stats = collect_stats(tmp_path / "store")
    assert line_of(stats, "Time range:") == "  Time range: none"
    assert stats.total_entries == 0


def test_a_superseded_table_is_not_counted_twice(tmp_path: Path) -> None:
    store = tmp_path / "store"
    make_store(store, [sample(10, seed=1), sample(10, seed=2)], flush_last=True)
    inputs = {file: file.read_bytes() for file in (store / "sst").iterdir()}
    with kifa.open(store, compaction_threshold=2) as log:
        log.compact()
    for file, content in inputs.items():
        file.write_bytes(content)
    stats = collect_stats(store)
    assert (stats.total_entries, stats.tables) == (20, 1)


def test_gaps_and_their_reason_are_named(tmp_path: Path) -> None:
    store = tmp_path / "store"
    make_store(store, [sample(10, seed=1), sample(10, seed=2)], flush_last=True)
    retire_log(store)
    first, *_ = sorted((store / "sst").iterdir())
    first.unlink()
    stats = collect_stats(store)
    assert stats.gaps == ((1, 10),)
    assert stats.total_entries == 11
    assert line_of(stats, "Gaps:") == "  Gaps: 1 (10 entries lost: LSN 1-10)"
    (damage,) = stats.damage
    assert (damage.kind, damage.file) == ("missing file", f"sst/{first.name}")


def test_clock_steps_come_from_the_tables(tmp_path: Path) -> None:
    store = tmp_path / "store"
    make_store(store, [sample(3)], flush_last=True)
    (old,) = (store / "sst").iterdir()
    manifest = load_manifest(store)
    assert manifest is not None
    store_id = manifest.store_id
    metadata = TableMetadata(clock_steps=((2, 5_000, 3_000),), clock_step_count=9)
    write_table(store / "sst", store_id, batches_of(numbered(sample(3))), metadata)
    with Table(old, store_id) as table:
        assert table.metadata == metadata
    stats = collect_stats(store)
    assert stats.clock_step_count == 9
    assert line_of(stats, "Clock steps:").endswith("9 (latest at LSN 2: back by 0:00:02)")


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(NotAStoreError):
        collect_stats(tmp_path)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (16 << 20, "16.0 MiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes(size: int, text: str) -> None:
    assert format_size(size) == text
