"""Packing blocks: what is in them, for batches, blocks and runs of any size."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kifa._batch import Entry
from kifa._crc32c import crc32c
from kifa._table import BlockPacker
from kifa.sstable_format import BLOCK_HEADER_SIZE, BlockHeader
from kifa.sstable_writer import _pack
from kifa.zstd import ZstdDecompressor
from tests.batches import STORE_ID, batches_of, columns, entry_lists, numbered

SEED = crc32c(STORE_ID)


def blocks_of(run: bytes) -> Iterator[tuple[BlockHeader, bytes]]:
    """Headers and raw payloads of the blocks in ``run``, which must be whole."""
    while run:
        header = BlockHeader.parse(run[:BLOCK_HEADER_SIZE], SEED)
        assert header is not None
        stored, run = run[BLOCK_HEADER_SIZE : header.block_size], run[header.block_size :]
        assert crc32c(stored, SEED) == header.payload_crc
        raw = ZstdDecompressor().decompress(stored) if header.codec else stored
        assert len(raw) == header.raw_size
        assert len(stored) < len(raw) or not header.codec
        yield header, raw


def expected_blocks(entries: list[Entry], target_size: int) -> Iterator[list[Entry]]:
    block: list[Entry] = []
    size = 0
    for entry in entries:
        size += len(entry.data) + 4
        if block and (size > target_size or entry.lsn != block[-1].lsn + 1):
            yield block
            block, size = [], len(entry.data) + 4
        block.append(entry)
    if block:
        yield block


@settings(max_examples=100, deadline=None)
@given(
    entries=entry_lists(),
    batch_size=st.sampled_from([1, 3, 1000]),
    run_size=st.sampled_from([1, 300, 1 << 20]),
    target_size=st.sampled_from([4, 64, 1000, 65536]),
)
def test_blocks_have_all_entries_and_are_filled(
    entries: list[Entry], batch_size: int, run_size: int, target_size: int
) -> None:
    packer = BlockPacker(run_size, target_size)
    packed = map(bytes, _pack(packer, batches_of(entries, batch_size), SEED))
    runs = [list(blocks_of(run)) for run in packed]
    found = [block for run in runs for block in run]
    expected = list(expected_blocks(entries, target_size))
    assert [raw for _, raw in found] == [columns(block) for block in expected]
    for (header, _), block in zip(found, expected, strict=True):
        times = [entry.timestamp_ms for entry in block]
        assert (header.first_lsn, header.entries) == (block[0].lsn, len(block))
        assert (header.min_timestamp, header.max_timestamp) == (min(times), max(times))
    assert packer.data_bytes == sum(len(entry.data) for entry in entries)
    for run in runs[:-1]:
        assert sum(header.block_size for header, _ in run) >= run_size


def test_the_largest_entries_fit_whether_they_shrink_or_not() -> None:
    noise = random.Random(4).randbytes(1 << 20)
    entries = numbered([noise, b"", b"x" * (1 << 20), noise[:70_000], noise[:9]] + [b""] * 17_000)
    packed = map(bytes, _pack(BlockPacker(1 << 20), batches_of(entries, 7), SEED))
    found = [block for run in packed for block in blocks_of(run)]
    assert [raw for _, raw in found] == [
        columns(block) for block in expected_blocks(entries, 1 << 16)
    ]
    assert [header.codec for header, _ in found][:3] == [0, 0, 1]


def test_positions_outside_a_batch_are_refused() -> None:
    packer = BlockPacker(1000)
    (batch,) = batches_of(numbered([b"x"]))
    for start in (-1, 2):
        with pytest.raises(IndexError):
            packer.add(batch, start)
    assert packer.add(batch, 1) == 0
