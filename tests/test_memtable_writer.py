"""A flush: what memtables hold becomes one table, packed by as many threads as pay."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kifa import memtable_writer
from kifa._batch import Entry, EntryBatch
from kifa._memtable import Memtable
from kifa.memtable_writer import halves, write_memtables
from kifa.sstable import Table
from kifa.sstable_format import TableMetadata
from kifa.sstable_writer import write_table
from tests.batches import STORE_ID, batches_of, entry_lists, numbered


def entries_of(path: Path) -> list[Entry]:
    with Table(path, STORE_ID) as table:
        assert not table.verify()
        return [
            entry for batch in table.batches() if isinstance(batch, EntryBatch) for entry in batch
        ]


@settings(max_examples=40, deadline=None)
@given(entries=entry_lists(), size=st.sampled_from([1, 3, 1000]))
def test_halves_are_all_entries_in_order(entries: list[Entry], size: int) -> None:
    first, second = halves(batches_of(entries, size))
    assert [entry for batch in (*first, *second) for entry in batch] == entries
    assert len(entries) // 2 == sum(map(len, first))


@settings(max_examples=40, deadline=None)
@given(entries=entry_lists(), size=st.sampled_from([1, 3, 1000]))
def test_what_is_packed_beside_follows(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Entry], size: int
) -> None:
    directory = tmp_path_factory.mktemp("sst")
    first, second = halves(batches_of(entries, size))
    info = write_table(directory, STORE_ID, first, TableMetadata(), beside=second)
    assert info.entries == len(entries)
    assert info.data_bytes == sum(len(entry.data) for entry in entries)
    assert entries_of(directory / info.name) == entries


def test_what_fails_beside_fails_the_table_and_leaves_nothing(tmp_path: Path) -> None:
    batches = batches_of(numbered([b"x"] * 10))
    with pytest.raises(ValueError, match="not ascending"):
        write_table(tmp_path, STORE_ID, batches, TableMetadata(), beside=batches)
    with pytest.raises(TypeError):
        write_table(tmp_path, STORE_ID, batches, TableMetadata(), beside=[None])  # type: ignore[list-item]
    assert not list(tmp_path.iterdir())


def test_without_another_thread_it_is_packed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    entries = numbered([b"x"] * 10)
    first, second = halves(batches_of(entries))
    info = write_table(tmp_path, STORE_ID, first, TableMetadata(), beside=second)
    assert entries_of(tmp_path / info.name) == entries


@pytest.mark.parametrize("processors", [1, 2])
def test_a_large_memtable_on_any_number_of_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors: int
) -> None:
    monkeypatch.setattr(memtable_writer, "_processors", lambda: processors)
    entries = numbered([b"%d" % number * 40 for number in range(20_000)])
    memtable = Memtable()
    for batch in batches_of(entries):
        memtable.extend(batch)
    assert memtable.size_bytes > memtable_writer.WORTH_A_THREAD_BYTES
    info, _ = write_memtables(tmp_path, STORE_ID, [memtable])
    assert entries_of(tmp_path / info.name) == entries
