"""Packing blocks: what is in them, for batches, blocks and runs of any size, whoever compresses."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kifa import zstd
from kifa._batch import Entry, EntryBatch
from kifa._crc32c import crc32c
from kifa._packer import BlockPacker, Compressor
from kifa.sstable_format import BLOCK_HEADER_SIZE, BlockHeader, TableMetadata
from kifa.sstable_writer import write_table
from tests.batches import STORE_ID, batches_of, columns, entry_lists, numbered

SEED = crc32c(STORE_ID)
EITHER = pytest.mark.parametrize("by_module", [False, True], ids=["library", "module"])


def compressor(by_module: bool) -> Compressor:
    with pytest.MonkeyPatch.context() as patch:
        if by_module:
            patch.setattr(zstd, "LIBRARY_PATH", None)
        return Compressor(1)


def pack(packer: BlockPacker, batches: Iterable[EntryBatch]) -> Iterator[bytes]:
    """Give runs as they are when all is packed: what was taken must not change any more."""
    runs = []
    for batch in batches:
        start = packer.add(batch, 0)
        while start < len(batch):
            runs.append(packer.take_run())
            start += packer.add(batch, start)
    packer.finish()
    runs.append(packer.take_run())
    return map(bytes, runs)


def blocks_of(run: bytes) -> Iterator[tuple[BlockHeader, bytes]]:
    """Headers and raw payloads of the blocks in ``run``, which must be whole."""
    while run:
        header = BlockHeader.parse(run[:BLOCK_HEADER_SIZE], SEED)
        assert header is not None
        stored, run = run[BLOCK_HEADER_SIZE : header.block_size], run[header.block_size :]
        assert crc32c(stored, SEED) == header.payload_crc
        raw = zstd.ZstdDecompressor().decompress(stored) if header.codec else stored
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


@EITHER
@settings(max_examples=60, deadline=None)
@given(
    entries=entry_lists(),
    batch_size=st.sampled_from([1, 3, 1000]),
    run_size=st.sampled_from([1, 300, 1 << 20]),
    target_size=st.sampled_from([4, 64, 1000, 65536]),
)
def test_blocks_have_all_entries_and_are_filled(
    by_module: bool, entries: list[Entry], batch_size: int, run_size: int, target_size: int
) -> None:
    packer = BlockPacker(compressor(by_module), SEED, run_size, target_size)
    runs = [list(blocks_of(run)) for run in pack(packer, batches_of(entries, batch_size))]
    found = [block for run in runs for block in run]
    expected = list(expected_blocks(entries, target_size))
    assert [raw for _, raw in found] == [columns(block) for block in expected]
    for (header, _), block in zip(found, expected, strict=True):
        times = [entry.timestamp_ms for entry in block]
        assert (header.first_lsn, header.entries) == (block[0].lsn, len(block))
        assert (header.min_timestamp, header.max_timestamp) == (min(times), max(times))
    assert packer.data_bytes == sum(len(entry.data) for entry in entries)
    for run in runs:
        assert sum(header.block_size for header, _ in run[:-1]) < run_size
    for run in runs[:-1]:
        assert sum(header.block_size for header, _ in run) >= run_size


@EITHER
def test_the_largest_entries_fit_whether_they_shrink_or_not(by_module: bool) -> None:
    noise = random.Random(4).randbytes(1 << 20)
    entries = numbered([noise, b"", b"x" * (1 << 20), noise[:70_000], noise[:9]] + [b""] * 17_000)
    packer = BlockPacker(compressor(by_module), SEED, 1 << 20)
    found = [block for run in pack(packer, batches_of(entries, 7)) for block in blocks_of(run)]
    assert [raw for _, raw in found] == [
        columns(block) for block in expected_blocks(entries, 1 << 16)
    ]
    assert [header.codec for header, _ in found][:3] == [0, 0, 1]


def test_library_and_module_make_the_same_table(tmp_path: Path) -> None:
    entries = numbered(b'{"till":%d,"amount":%d}' % (n % 7, n * n % 997) for n in range(9_000))
    made = [
        b"".join(pack(BlockPacker(compressor(by_module), SEED, 1 << 20), batches_of(entries)))
        for by_module in (False, True)
    ]
    assert made[0] == made[1]


def test_the_library_is_used_where_its_functions_can_be_had() -> None:
    shown = zstd.LIBRARY_PATH is not None and hasattr(
        ctypes.CDLL(zstd.LIBRARY_PATH), "ZSTD_compressCCtx"
    )
    assert compressor(by_module=False).needs_interpreter == (not shown)
    assert compressor(by_module=True).needs_interpreter


@pytest.mark.parametrize("path", ["/nonexistent", ctypes.__file__, "/proc/self/exe"])
def test_what_is_not_the_library_is_not_used(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zstd, "LIBRARY_PATH", path)
    assert Compressor(1).needs_interpreter


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_what_the_module_raises_ends_the_table(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        FLUSH_FRAME = 2

        def __init__(self, level: int) -> None:
            pass

        def compress(self, _data: bytes, _mode: int) -> bytes:
            raise error

    monkeypatch.setattr(zstd, "LIBRARY_PATH", None)
    monkeypatch.setattr(zstd, "ZstdCompressor", Failing)
    with pytest.raises(error):
        write_table(tmp_path, STORE_ID, batches_of(numbered([b"x"])), TableMetadata())
    assert not list(tmp_path.iterdir())


def test_positions_outside_a_batch_are_refused() -> None:
    packer = BlockPacker(compressor(by_module=False), SEED, 1000)
    (batch,) = batches_of(numbered([b"x"]))
    for start in (-1, 2):
        with pytest.raises(IndexError):
            packer.add(batch, start)
    assert packer.add(batch, 1) == 0
