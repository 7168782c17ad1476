"""Runs of blocks: what C says of them is what docs/FORMAT.md says, read in plain Python."""

from __future__ import annotations

import errno
import itertools
import os
import random
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kifa import sstable, sstable_writer
from kifa._batch import Entry
from kifa._blocks import BlockIndex, check_blocks, find_run
from kifa._crc32c import crc32c
from kifa.errors import DamagedError
from kifa.sstable import Table
from kifa.sstable_format import BLOCK_HEADER_SIZE, HEADER_SIZE, INDEX_ROW, BlockHeader, IndexRow
from kifa.sstable_writer import concatenate_tables
from tests.batches import STORE_ID, entry_lists, make_table, numbered
from tests.test_sstable import read_entries

SEED = crc32c(STORE_ID)


class Run:
    """The blocks of a small table, and its index."""

    def __init__(self, directory: Path) -> None:
        source = random.Random(5)
        entries = numbered([b"shrinks " * 40, source.randbytes(90)])
        entries += [Entry(9, 0, b""), Entry(20, 2**64 - 1, source.randbytes(30))]
        entries += numbered([b"also shrinks, " * 20] * 3, 30)
        self.info = make_table(directory, entries)
        self.path = directory / self.info.name
        self.content = self.path.read_bytes()
        with Table(self.path, STORE_ID) as table:
            self.index = table.index
        self.rows = rows_of(self.index)
        assert [row.first_lsn for row in self.rows] == [1, 9, 20, 30]
        self.blocks = self.content[HEADER_SIZE : self.rows[-1].offset + self.rows[-1].size]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


def rows_of(index: bytes) -> list[IndexRow]:
    return [IndexRow.at(index, position) for position in range(len(index) // INDEX_ROW.size)]


def judged_in_python(blocks: bytes, rows: Sequence[IndexRow]) -> tuple[int, str | None]:
    """Return how many blocks of ``rows`` are whole, and what is wrong with the next."""
    for position, row in enumerate(rows):
        start = (row.offset - rows[0].offset) % 2**64
        block = blocks[start : start + row.size]
        header = BlockHeader.parse(block[:BLOCK_HEADER_SIZE], SEED)
        if header is None or len(block) != row.size:
            return position, "the header of a block is damaged"
        told = (row.first_lsn, row.entries, row.size)
        if (header.first_lsn, header.entries, header.block_size) != told:
            return position, "a block is not the one the index names"
        if crc32c(block[BLOCK_HEADER_SIZE:], SEED) != header.payload_crc:
            return position, "the payload of a block is damaged"
    return len(rows), None


def signed(header: bytes) -> bytes:
    return header[:52] + struct.pack("<I", crc32c(header[:52], SEED))


def test_every_flipped_bit_is_found_in_the_block_it_is_in(run: Run) -> None:
    assert check_blocks(run.blocks, run.index, 0, 4, SEED) == (4, None)
    content = bytearray(run.blocks)
    for offset in range(len(content)):
        where = sum(row.offset + row.size <= HEADER_SIZE + offset for row in run.rows)
        for bit in range(8):
            content[offset] ^= 1 << bit
            verdict = check_blocks(content, run.index, 0, 4, SEED)
            assert verdict == judged_in_python(bytes(content), run.rows)
            assert verdict[0] == where
            assert verdict[1] is not None
            content[offset] ^= 1 << bit


def test_every_flipped_bit_of_the_index_is_judged_as_in_python(run: Run) -> None:
    index = bytearray(run.index)
    for offset in range(len(index)):
        for bit in range(8):
            index[offset] ^= 1 << bit
            verdict = check_blocks(run.blocks, index, 0, 4, SEED)
            assert verdict == judged_in_python(run.blocks, rows_of(bytes(index)))
            index[offset] ^= 1 << bit


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_damage_is_judged_as_in_python(run: Run, data: st.DataObject) -> None:
    """Overwritten stretches, cut ends, and headers with other fields that are signed again."""
    content, index = bytearray(run.blocks), bytearray(run.index)
    for target in (content, index):
        for _ in range(data.draw(st.integers(0, 2))):
            at = data.draw(st.integers(0, len(target) - 1))
            junk = data.draw(st.binary(min_size=1, max_size=60))[: len(target) - at]
            target[at : at + len(junk)] = junk
    for row in run.rows:
        start = row.offset - HEADER_SIZE
        if data.draw(st.booleans()):
            field = data.draw(st.integers(0, 51))
            content[start + field] = data.draw(st.integers(0, 255))
            end = start + BLOCK_HEADER_SIZE
            content[start:end] = signed(bytes(content[start:end]))
    cut = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    first = data.draw(st.integers(0, 3))
    count = data.draw(st.integers(1, 4 - first))
    blocks = bytes(content[min(run.rows[first].offset - HEADER_SIZE, cut) : cut])
    rows = rows_of(bytes(index))[first : first + count]
    assert check_blocks(blocks, index, first, count, SEED) == judged_in_python(blocks, rows)


def test_rows_that_are_not_there_are_an_index_error(run: Run) -> None:
    for position, count in ((-1, 1), (0, 0), (0, -1), (0, 5), (4, 1), (2**62, 2**62)):
        with pytest.raises(IndexError):
            check_blocks(run.blocks, run.index, position, count, SEED)
    with pytest.raises(IndexError):
        find_run(run.index, 4, 1)
    with pytest.raises(IndexError):
        find_run(b"", 0, 1)


@given(
    places=st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40)), min_size=1, max_size=20),
    largest=st.integers(0, 200),
)
def test_runs_are_neighbours_up_to_a_size(places: list[tuple[int, int]], largest: int) -> None:
    rows, offset = [], HEADER_SIZE
    for gap, size in places:
        offset += gap if gap > 3 else 0
        rows.append(IndexRow(1, 1, size, offset, 0, 0))
        offset += size
    index = b"".join(row.pack() for row in rows)
    position = 0
    while position < len(rows):
        count, start, size = find_run(index, position, largest)
        taken = rows[position : position + count]
        assert start == taken[0].offset
        assert size == sum(row.size for row in taken) == taken[-1].offset + taken[-1].size - start
        assert size <= largest or count == 1
        position += count
        if position < len(rows):
            follows = rows[position].offset == start + size
            assert not follows or size + rows[position].size > largest


def test_an_index_is_what_its_runs_hold(run: Run) -> None:
    index = BlockIndex()
    index.add_run(b"", 5)
    assert (bytes(index), index.blocks) == (b"", 0)
    cut = run.rows[2].offset - HEADER_SIZE
    index.add_run(run.blocks[:cut], 1000)
    index.add_run(run.blocks[cut:], 1000 + cut)
    moved = [row._replace(offset=row.offset - HEADER_SIZE + 1000) for row in run.rows]
    assert rows_of(bytes(index)) == moved
    assert (index.blocks, index.entries) == (4, 7)
    assert (index.min_lsn, index.last_lsn) == (1, 32)
    assert (index.min_timestamp, index.max_timestamp) == (0, 2**64 - 1)
    with pytest.raises(ValueError, match="LSN 1 after 32: not ascending"):
        index.add_run(run.blocks, 0)


def test_an_index_takes_whole_blocks_only(run: Run) -> None:
    starts = {row.offset - HEADER_SIZE for row in run.rows}
    for size in set(range(len(run.blocks))) - starts:
        with pytest.raises(ValueError, match="behind the last whole block"):
            BlockIndex().add_run(run.blocks[:size], 0)


@settings(max_examples=60, deadline=None)
@given(
    entries=entry_lists(),
    cuts=st.lists(st.integers(0, 60), max_size=3),
    sizes=st.tuples(*[st.sampled_from([1, 100, 5000, 1 << 20])] * 2),
)
def test_joined_tables_hold_what_their_inputs_held(
    tmp_path_factory: pytest.TempPathFactory,
    entries: list[Entry],
    cuts: list[int],
    sizes: tuple[int, int],
) -> None:
    directory = tmp_path_factory.mktemp("sst")
    bounds = [0, *sorted(cuts), len(entries)]
    parts = [entries[a:b] for a, b in itertools.pairwise(bounds) if entries[a:b]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sstable, "RUN_SIZE_BYTES", sizes[0])
        patch.setattr(sstable_writer, "RUN_SIZE_BYTES", sizes[1])
        patch.setattr(sstable_writer, "FLUSH_SIZE_BYTES", sizes[1])
        tables = [Table(directory / make_table(directory, part).name, STORE_ID) for part in parts]
        contents = [b"".join(map(bytes, table.verified_runs())) for table in tables]
        joined = concatenate_tables(directory, tables)
        for table in tables:
            table.close()
    content = (directory / joined.name).read_bytes()
    assert content[HEADER_SIZE : HEADER_SIZE + sum(map(len, contents))] == b"".join(contents)
    with Table(directory / joined.name, STORE_ID) as table:
        assert read_entries(table.batches()) == entries
        assert table.verify() == []
        assert table.info == joined
        assert [row[:3] for row in rows_of(table.index)] == [
            (header.first_lsn, header.entries, header.block_size)
            for row in rows_of(table.index)
            if (header := BlockHeader.parse(content[row.offset :][:BLOCK_HEADER_SIZE], SEED))
        ]
    assert joined.data_bytes == sum(len(entry.data) for entry in entries)
    assert joined.entries == len(entries)
    assert joined.min_timestamp == min(entry.timestamp_ms for entry in entries)
    assert joined.max_timestamp == max(entry.timestamp_ms for entry in entries)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), size=st.sampled_from([1, 500, 1 << 20]))
def test_a_damaged_block_of_a_run_is_named(
    run: Run, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, size: int
) -> None:
    path = tmp_path_factory.mktemp("sst") / run.info.name
    content = bytearray(run.content)
    row = data.draw(st.sampled_from(run.rows))
    content[data.draw(st.integers(row.offset, row.offset + row.size - 1))] ^= 1
    path.write_bytes(content)
    expected = judged_in_python(bytes(content[HEADER_SIZE:]), run.rows)[1]
    with pytest.MonkeyPatch.context() as patch, Table(path, STORE_ID) as table:
        patch.setattr(sstable, "RUN_SIZE_BYTES", size)
        with pytest.raises(DamagedError) as caught:
            for _ in table.verified_runs():
                pass
    (damage,) = caught.value.damage
    assert (damage.offset, damage.first_lsn, damage.last_lsn) == (
        row.offset,
        row.first_lsn,
        row.last_lsn,
    )
    assert (damage.kind, damage.reason) == ("corruption", expected)


def test_a_run_that_is_read_short_is_read_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv
    monkeypatch.setattr(
        "kifa.sstable.os.preadv", lambda fd, buffers, at: preadv(fd, [buffers[0][:9]], at)
    )
    with Table(run.path, STORE_ID) as table:
        assert b"".join(map(bytes, table.verified_runs())) == run.blocks


def test_a_run_that_cannot_be_read_is_damage(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Table(run.path, STORE_ID) as table:
        table.require_intact()
        monkeypatch.setattr("kifa.sstable.os.preadv", fail)
        monkeypatch.setattr("kifa.sstable.os.pread", fail)
        with pytest.raises(DamagedError) as caught:
            next(table.verified_runs())
    (damage,) = caught.value.damage
    assert (damage.first_lsn, damage.reason) == (1, "cannot be read: Input/output error")
