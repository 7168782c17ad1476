"""Sorted tables: what is written is read back, every damage is named and costs only its own block."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kifa._batch import Entry, EntryBatch
from kifa._crc32c import crc32c
from kifa._table import unpack_block
from kifa.errors import Damage, DamagedError
from kifa.sstable import ForeignTableError, SkippedRange, Table, read_store_id
from kifa.sstable_format import (
    HEADER_SIZE,
    MAX_U64,
    IndexRow,
    TableMetadata,
    parse_table_name,
    table_name,
)
from kifa.sstable_writer import concatenate_tables, write_table
from tests.batches import STORE_ID, batches_of, columns, entry_lists, make_table, numbered

METADATA = TableMetadata(
    {"tail:/var/log/é": {"offset": 5}},
    ((3, 1000, 2000),),
    7,
    (Damage("gap", None, None, 4, 5, "lost"),),
)


def read_entries(items: Iterable[EntryBatch | SkippedRange]) -> list[Entry]:
    return [entry for item in items if isinstance(item, EntryBatch) for entry in item]


def incompressible(count: int, size: int, first_lsn: int = 1) -> list[Entry]:
    source = random.Random(first_lsn)
    return numbered((source.randbytes(size) for _ in range(count)), first_lsn)


@settings(max_examples=60, deadline=None)
@given(entries=entry_lists(), batch_size=st.sampled_from([1, 3, 1000]), data=st.data())
def test_a_table_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[Entry],
    batch_size: int,
    data: st.DataObject,
) -> None:
    directory = tmp_path_factory.mktemp("sst")
    info = make_table(directory, entries, METADATA, batch_size=batch_size)
    lsns = [entry.lsn for entry in entries]
    bounds = st.one_of(st.sampled_from(lsns), st.integers(0, MAX_U64))
    low, high = data.draw(bounds), data.draw(bounds)
    expected = [entry for entry in entries if low <= entry.lsn <= high]
    with Table(directory / info.name, STORE_ID) as table:
        assert read_entries(table.batches()) == entries
        assert read_entries(table.batches(low, high)) == expected
        descending = [
            entry
            for batch in table.batches(low, high, reverse=True)
            for entry in reversed(read_entries([batch]))
        ]
        assert descending == expected[::-1]
        assert table.metadata == METADATA
        assert table.info == info
        assert table.verify() == []
    assert (info.min_lsn, info.max_lsn, info.entries) == (lsns[0], lsns[-1], len(entries))
    assert info.data_bytes == sum(len(entry.data) for entry in entries)
    assert os.listdir(directory) == [info.name]  # noqa: PTH208


@settings(max_examples=100, deadline=None)
@given(entries=entry_lists())
def test_the_columns_are_those_of_the_document(entries: list[Entry]) -> None:
    run = [entry._replace(lsn=i + 1) for i, entry in enumerate(entries)]
    raw = columns(run)
    low = min(entry.timestamp_ms for entry in run)
    assert list(unpack_block(raw, 1, len(run), low)) == run
    for wrong in (raw[:-1], raw + b"\0", b"\xff" * len(raw)):
        with pytest.raises(ValueError, match="entries"):
            unpack_block(wrong, 1, len(run), low)


@settings(max_examples=300, deadline=None)
@given(raw=st.binary(max_size=60), count=st.integers(-1, 70))
def test_unpacking_any_bytes_never_reads_outside(raw: bytes, count: int) -> None:
    try:
        batch = unpack_block(raw, 1, count, 0)
    except ValueError:
        return
    assert columns(list(batch))[-1:] == raw[-1:]


@settings(max_examples=60, deadline=None)
@given(entries=entry_lists(), data=st.data())
def test_blocks_outside_a_time_range_are_skipped_and_named(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Entry], data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("sst")
    info = make_table(directory, entries)
    times = st.sampled_from([entry.timestamp_ms for entry in entries])
    low, high = sorted((data.draw(times), data.draw(times)))
    reverse = data.draw(st.booleans())
    seen: set[int] = set()
    with Table(directory / info.name, STORE_ID) as table:
        previous = None
        for item in table.batches(from_time=low, to_time=high, reverse=reverse):
            assert previous is None or (item.last_lsn < previous) == reverse
            previous = item.first_lsn
            lsns = set(range(item.first_lsn, item.last_lsn + 1))
            assert not lsns & seen
            seen |= lsns
            if isinstance(item, SkippedRange):
                skipped = [entry for entry in entries if entry.lsn in lsns]
                assert not any(low <= entry.timestamp_ms <= high for entry in skipped)
    assert seen == {entry.lsn for entry in entries}


def test_a_block_holds_about_64_kib_across_batches(tmp_path: Path) -> None:
    entries = numbered(b"x" * 200 for _ in range(3000))
    info = make_table(tmp_path, entries, batch_size=7)
    assert info.blocks == 10
    large = numbered([b"y" * (1 << 20), b"", b"z" * (1 << 20)], 5000)
    assert make_table(tmp_path, large).blocks == 3


def test_what_does_not_shrink_is_stored_as_it_is(tmp_path: Path) -> None:
    entries = incompressible(50, 4000)
    info = make_table(tmp_path, entries)
    content = (tmp_path / info.name).read_bytes()
    assert all(entry.data in content for entry in entries)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one entry"):
        write_table(tmp_path, STORE_ID, [], TableMetadata())
    batches = batches_of(numbered([b"a", b"b"]))
    with pytest.raises(ValueError, match="not ascending"):
        write_table(tmp_path, STORE_ID, batches + batches, TableMetadata())
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_another_store_is_refused(tmp_path: Path) -> None:
    info = make_table(tmp_path, numbered([b"a"]), store_id=bytes(16))
    assert read_store_id(tmp_path / info.name) == bytes(16)
    with pytest.raises(ForeignTableError):
        Table(tmp_path / info.name, STORE_ID)


def test_an_open_table_outlives_its_name(tmp_path: Path) -> None:
    entries = numbered([b"a", b"b"])
    info = make_table(tmp_path, entries)
    with Table(tmp_path / info.name, STORE_ID) as table:
        (tmp_path / info.name).unlink()
        assert read_entries(table.batches()) == entries


def test_a_large_index_is_held_only_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = incompressible(400, 1000)
    info = make_table(tmp_path, entries)
    reads: list[int] = []
    pread = os.pread
    monkeypatch.setattr("kifa.sstable.LARGE_INDEX_SIZE_BYTES", 0)
    monkeypatch.setattr(
        "kifa.sstable.os.pread", lambda d, size, at: reads.append(at) or pread(d, size, at)
    )
    with Table(tmp_path / info.name, STORE_ID) as table:
        for _ in range(2):
            assert read_entries(table.batches()) == entries
    assert table.damage == []
    assert len({*reads}) == info.blocks + 3  # header, footer, index
    assert len(reads) == 2 * (info.blocks + 1) + 2


def test_a_table_at_rest_holds_no_descriptor(tmp_path: Path) -> None:
    entries = incompressible(200, 1000)
    path = tmp_path / make_table(tmp_path, entries, METADATA).name
    before = len(list(Path("/proc/self/fd").iterdir()))
    table = Table(path, STORE_ID, keep_open=False)
    assert read_entries(table.batches()) == entries
    assert table.metadata == METADATA
    assert table.verify() == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    reading = table.batches()
    next(reading)
    path.unlink()
    assert len(read_entries(reading)) > 0  # what is being read stays readable
    with pytest.raises(FileNotFoundError):
        next(table.batches())
    table.close()


@given(low=st.integers(0, MAX_U64), high=st.integers(0, MAX_U64))
def test_table_names_round_trip(low: int, high: int) -> None:
    assert parse_table_name(table_name(low, high)) == (low, high)


@pytest.mark.parametrize(
    "name", ["", "x.sst", "0" * 33 + ".sst", "0" * 16 + "-" + "G" * 16 + ".sst"]
)
def test_other_names_are_no_tables(name: str) -> None:
    assert parse_table_name(name) is None


class Subject:
    """A small table of several blocks, and what reading a damaged copy of it must still give."""

    def __init__(self, directory: Path) -> None:
        entries = incompressible(6, 30, 1)
        entries += [Entry(10, 5, b"after a gap"), Entry(20, 6, b""), Entry(21, 2, b"last" * 9)]
        self.entries = entries
        self.info = make_table(directory, entries, METADATA)
        self.path = directory / self.info.name
        self.content = self.path.read_bytes()
        with Table(self.path, STORE_ID) as table:
            self.rows = [IndexRow.at(table.index, i) for i in range(table.blocks)]
        assert len(self.rows) == 3

    def served_and_damage(self, content: bytes) -> tuple[list[Entry], list[Damage]]:
        self.path.write_bytes(content)
        found: list[Damage] = []
        with Table(self.path, STORE_ID) as table:
            served = read_entries(table.batches(on_damage=found.append))
            _ = table.metadata
            assert table.verify() == table.damage + found
            return served, table.damage + found

    def check(self, content: bytes, damaged_offsets: range) -> None:
        """All entries of untouched blocks are served, all others are named."""
        served, damage = self.served_and_damage(content)
        lost = set()
        for row in self.rows:
            if set(range(row.offset, row.offset + row.size)) & set(damaged_offsets):
                lost |= set(range(row.first_lsn, row.last_lsn + 1))
        assert served == [entry for entry in self.entries if entry.lsn not in lost]
        assert damage
        named = set()
        for item in damage:
            if item.first_lsn is not None and item.last_lsn is not None:
                named |= set(range(item.first_lsn, item.last_lsn + 1))
        # LSNs that the table never held may be named with their neighbours, where only those tell the range
        held = {entry.lsn for entry in self.entries}
        assert named & held == lost


def test_every_flipped_bit_is_found_and_costs_only_its_block(tmp_path: Path) -> None:
    subject = Subject(tmp_path)
    for offset in range(len(subject.content)):
        for bit in range(8):
            content = bytearray(subject.content)
            content[offset] ^= 1 << bit
            subject.check(bytes(content), range(offset, offset + 1))


def test_every_truncation_keeps_the_blocks_before_it(tmp_path: Path) -> None:
    subject = Subject(tmp_path)
    for size in range(len(subject.content)):
        subject.check(subject.content[:size], range(size, len(subject.content)))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_an_overwritten_stretch_costs_only_its_blocks(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    subject = Subject(tmp_path_factory.mktemp("sst"))
    start = data.draw(st.integers(0, len(subject.content) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=200))[: len(subject.content) - start]
    content = subject.content[:start] + junk + subject.content[start + len(junk) :]
    changed = [i for i, (a, b) in enumerate(zip(subject.content, content, strict=True)) if a != b]
    if changed:
        subject.check(content, range(changed[0], changed[-1] + 1))


def test_footer_and_a_block_header_damaged_together(tmp_path: Path) -> None:
    subject = Subject(tmp_path)
    content = bytearray(subject.content)
    content[-1] ^= 1
    content[subject.rows[1].offset + 9] ^= 1
    served, damage = subject.served_and_damage(bytes(content))
    assert [entry.lsn for entry in served] == [1, 2, 3, 4, 5, 6, 20, 21]
    assert (7, 19) in [(item.first_lsn, item.last_lsn) for item in damage]


def test_a_table_inside_an_entry_is_not_taken_for_blocks(tmp_path: Path) -> None:
    """A table logged into its own store is data, also when the walk must search for blocks."""
    inner = make_table(tmp_path / "inner", numbered([b"inner"], 2))
    data = (tmp_path / "inner" / inner.name).read_bytes()
    source = random.Random(1)
    entries = numbered([b"one", source.randbytes(5000) + data, b"three"])
    info = make_table(tmp_path, entries)
    content = bytearray((tmp_path / info.name).read_bytes())
    content[-1] ^= 1
    (tmp_path / info.name).write_bytes(content)
    with Table(tmp_path / info.name, STORE_ID) as table:
        assert read_entries(table.batches()) == entries


def test_concatenation_copies_blocks_whole(tmp_path: Path) -> None:
    first, second = incompressible(300, 1000), incompressible(400, 1000, 301)
    infos = [make_table(tmp_path, first, METADATA), make_table(tmp_path, second, METADATA)]
    tables = [Table(tmp_path / info.name, STORE_ID) for info in infos]
    merged = concatenate_tables(tmp_path, tables)
    assert merged.name == table_name(1, 700)
    assert merged.blocks == sum(info.blocks for info in infos)
    assert merged.data_bytes == sum(info.data_bytes for info in infos)
    with Table(tmp_path / merged.name, STORE_ID) as table:
        assert read_entries(table.batches()) == first + second
        assert table.metadata.clock_step_count == 14
        assert table.metadata.damage == METADATA.damage * 2
        assert table.verify() == []
    old = (tmp_path / infos[0].name).read_bytes()
    end = HEADER_SIZE + sum(IndexRow.at(tables[0].index, i).size for i in range(tables[0].blocks))
    assert (tmp_path / merged.name).read_bytes()[HEADER_SIZE:end] == old[HEADER_SIZE:end]
    with pytest.raises(ValueError, match="not ascending"):
        concatenate_tables(tmp_path, tables[::-1])
    for table in tables:
        table.close()


@pytest.mark.parametrize("position", [30, 100, 5000, -10, -120, -200])
def test_a_damaged_table_is_never_copied(tmp_path: Path, position: int) -> None:
    infos = [make_table(tmp_path, incompressible(9, 999, first)) for first in (1, 10)]
    path = tmp_path / infos[1].name
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)
    with (
        Table(tmp_path / infos[0].name, STORE_ID) as first,
        Table(path, STORE_ID) as second,
        pytest.raises(DamagedError),
    ):
        concatenate_tables(tmp_path, [first, second])
    assert sorted(path.name for path in tmp_path.iterdir()) == [info.name for info in infos]


def test_every_crc_is_seeded_with_the_store(tmp_path: Path) -> None:
    info = make_table(tmp_path, numbered([b"a" * 10]))
    content = (tmp_path / info.name).read_bytes()
    header = content[HEADER_SIZE : HEADER_SIZE + 52]
    stored = int.from_bytes(content[HEADER_SIZE + 52 : HEADER_SIZE + 56], "little")
    assert stored == crc32c(header, crc32c(STORE_ID)) != crc32c(header)
