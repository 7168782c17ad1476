"""Writing sorted tables: from batches of entries (a flush) and from the blocks of other tables (a compaction)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kifa._crc32c import crc32c
from kifa._table import BlockPacker
from kifa._typing import TYPE_CHECKING
from kifa._writeback import write_back
from kifa.fs import DurableReplacement
from kifa.sstable_format import (
    CODEC_NONE,
    CODEC_ZSTD,
    HEADER_SIZE,
    MAX_U64,
    STORE_ID_SIZE,
    SUFFIX,
    BlockHeader,
    Footer,
    IndexRow,
    TableHeader,
    TableInfo,
    TableMetadata,
    merge_metadata,
    table_name,
)

if TYPE_CHECKING:
    from kifa._batch import EntryBatch
    from kifa.sstable import Table
    from kifa.zstd import ZstdCompressor

# zstd level 1 packs transaction JSON 4.5 times at 700 MB/s; higher levels and dictionaries gain nothing.
COMPRESSION_LEVEL = 1
WRITE_SIZE_BYTES = 1 << 20
WRITEBACK_SIZE_BYTES = 4 << 20


class _TableFile:
    """A table in the making: appends blocks, keeps their index, closes with index, metadata and footer."""

    def __init__(self, file: DurableReplacement, store_id: bytes, *, keep_cached: bool) -> None:
        assert len(store_id) == STORE_ID_SIZE
        self._file = file
        self._store_id = store_id
        self._keep_cached = keep_cached
        self._pending: list[bytes | memoryview] = [bytes(HEADER_SIZE)]  # written at the end
        self._pending_size = HEADER_SIZE
        self._offset = HEADER_SIZE
        self._written_back = 0
        self._index = bytearray()
        self._min_lsn = self._last_lsn = 0
        self._entries = self._data_bytes = self._blocks = 0
        self._min_timestamp, self._max_timestamp = MAX_U64, 0

    def add_block(self, header: BlockHeader, chunks: Sequence[bytes | memoryview]) -> None:
        """Append a block whose bytes, header included, are ``chunks``."""
        if header.first_lsn <= self._last_lsn:
            raise ValueError(f"LSN {header.first_lsn} after {self._last_lsn}: not ascending")
        row = IndexRow(
            header.first_lsn,
            header.entries,
            header.block_size,
            self._offset,
            header.min_timestamp,
            header.max_timestamp,
        )
        self._index += row.pack()
        self._blocks += 1
        self._min_lsn = self._min_lsn or header.first_lsn
        self._last_lsn = header.last_lsn
        self._entries += header.entries
        self._min_timestamp = min(self._min_timestamp, header.min_timestamp)
        self._max_timestamp = max(self._max_timestamp, header.max_timestamp)
        self._append(chunks)

    def count_data(self, size_bytes: int) -> None:
        """Add to the total of the entries' data."""
        self._data_bytes += size_bytes

    def _append(self, chunks: Sequence[bytes | memoryview]) -> None:
        size = sum(map(len, chunks))
        self._pending += chunks
        self._pending_size += size
        self._offset += size
        if self._pending_size >= WRITE_SIZE_BYTES:
            self._write_pending()

    def _write_pending(self) -> None:
        self._file.write([b"".join(self._pending)])
        self._pending.clear()
        self._pending_size = 0
        if self._offset - self._written_back >= WRITEBACK_SIZE_BYTES:
            self._write_back()

    def _write_back(self) -> None:
        """Wait for the stretch before last and start the last: never more than two stretches dirty."""
        descriptor, start = self._file.descriptor, self._written_back
        previous = max(start - WRITEBACK_SIZE_BYTES, 0)
        write_back(descriptor, previous, start - previous, wait=True)
        write_back(descriptor, start, self._offset - start, wait=False)
        if not self._keep_cached:
            os.posix_fadvise(descriptor, 0, start, os.POSIX_FADV_DONTNEED)
        self._written_back = self._offset

    def publish(
        self,
        directory: Path,
        metadata: TableMetadata,
        check: Callable[[Path], None] | None = None,
    ) -> TableInfo:
        """Finish the table and give it its name in ``directory``; for ``check`` see `DurableReplacement`."""
        if self._blocks == 0:
            raise ValueError("a table needs at least one entry")
        index, meta = bytes(self._index), metadata.pack()
        footer = Footer(
            self._store_id,
            self._min_lsn,
            self._last_lsn,
            self._entries,
            self._min_timestamp,
            self._max_timestamp,
            self._offset,
            self._blocks,
            crc32c(index, crc32c(self._store_id)),
            self._offset + len(index),
            len(meta),
            crc32c(meta, crc32c(self._store_id)),
            self._data_bytes,
        )
        self._append([index, meta, footer.pack()])
        self._write_pending()
        header = TableHeader(self._store_id, self._min_lsn, self._last_lsn).pack()
        if os.pwrite(self._file.descriptor, header, 0) != len(header):
            raise OSError("short write of a table header")
        info = TableInfo(
            table_name(self._min_lsn, self._last_lsn),
            self._min_lsn,
            self._last_lsn,
            self._entries,
            self._blocks,
            self._data_bytes,
            self._offset,
            self._min_timestamp,
            self._max_timestamp,
        )
        self._file.publish(directory / info.name, check)
        if not self._keep_cached:
            os.posix_fadvise(self._file.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return info


def write_table(
    directory: Path,
    store_id: bytes,
    batches: Iterable[EntryBatch],
    metadata: TableMetadata,
    check: Callable[[Path], None] | None = None,
) -> TableInfo:
    """Write ``batches`` (ascending LSNs, gaps allowed) as a new table in ``directory``; durable on return.

    Compression and writing run without the interpreter's lock. Memory does not depend on the size of the table.

    Args:
        check: called with the path of the synced file before that gets its name; what it raises ends this.

    Raises:
        ValueError: there is no entry, or LSNs do not ascend.
        OSError: nothing but perhaps the complete table is left behind.
    """
    from kifa.zstd import ZstdCompressor  # 5 ms that a reader of an empty store need not pay

    compressor = ZstdCompressor(level=COMPRESSION_LEVEL)
    seed = crc32c(store_id)
    packer = BlockPacker()
    with DurableReplacement(directory / f"flush{SUFFIX}") as file:
        table = _TableFile(file, store_id, keep_cached=True)
        for batch in batches:
            start = 0
            while start < len(batch):
                start += packer.add(batch, start)
                if start < len(batch):
                    _add_packed(table, packer, compressor, seed)
        if len(packer):
            _add_packed(table, packer, compressor, seed)
        return table.publish(directory, metadata, check)


def _add_packed(
    table: _TableFile, packer: BlockPacker, compressor: ZstdCompressor, seed: int
) -> None:
    first_lsn, count, min_timestamp, max_timestamp, data_bytes, raw = packer.take()
    stored, codec = compressor.compress(raw, compressor.FLUSH_FRAME), CODEC_ZSTD
    if len(stored) >= len(raw):
        stored, codec = raw, CODEC_NONE
    header = BlockHeader(
        first_lsn,
        count,
        codec,
        len(stored),
        len(raw),
        min_timestamp,
        max_timestamp,
        crc32c(stored, seed),
    )
    table.add_block(header, [header.pack(seed), stored])
    table.count_data(data_bytes)


def concatenate_tables(directory: Path, tables: Sequence[Table]) -> TableInfo:
    """Write one table with the blocks of ``tables`` (in LSN order, no overlap), copied whole; durable on return.

    Every block's CRC is verified before it is copied, and nothing is decoded or signed again.

    Raises:
        DamagedError: an input is damaged; it must be left alone. No new table exists.
        ValueError: the inputs overlap or are not in order.
        OSError: an input cannot be read, or the output cannot be written.
    """
    for table in tables:
        table.require_intact()
    with DurableReplacement(directory / f"compaction{SUFFIX}") as file:
        output = _TableFile(file, tables[0].store_id, keep_cached=False)
        for table in tables:
            for header, block in table.verified_blocks():
                output.add_block(header, [block])
            output.count_data(table.info.data_bytes)
        return output.publish(directory, merge_metadata(table.metadata for table in tables))
