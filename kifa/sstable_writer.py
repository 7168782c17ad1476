"""Writing sorted tables: from batches of entries (a flush) and from the blocks of other tables (a compaction)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from kifa._blocks import BlockIndex
from kifa._crc32c import crc32c
from kifa._table import BlockPacker
from kifa._typing import TYPE_CHECKING
from kifa._writeback import write_back
from kifa.fs import DurableReplacement
from kifa.sstable_format import (
    HEADER_SIZE,
    RUN_SIZE_BYTES,
    STORE_ID_SIZE,
    SUFFIX,
    Footer,
    TableHeader,
    TableInfo,
    TableMetadata,
    merge_metadata,
    table_name,
)

if TYPE_CHECKING:
    from kifa._batch import EntryBatch
    from kifa.sstable import Table

# zstd level 1 packs transaction JSON 4.5 times at 700 MB/s; higher levels and dictionaries gain nothing.
COMPRESSION_LEVEL = 1
FLUSH_SIZE_BYTES = 1 << 20
PAGE_SIZE_BYTES = 4096


class _TableFile:
    """A table in the making: appends runs of blocks, keeps their index, closes with index, metadata and footer."""

    def __init__(
        self,
        file: DurableReplacement,
        store_id: bytes,
        *,
        keep_cached: bool,
        hurried: Callable[[], bool] = lambda: False,
    ) -> None:
        assert len(store_id) == STORE_ID_SIZE
        self._file = file
        self._hurried = hurried
        self._store_id = store_id
        self._keep_cached = keep_cached
        self._stretch_size = FLUSH_SIZE_BYTES if keep_cached else RUN_SIZE_BYTES // 2
        self._offset = self._started = self._written = 0
        self._index = BlockIndex()
        self._append(bytes(HEADER_SIZE))  # written at the end

    def add_run(self, run: memoryview) -> None:
        """Append whole blocks, verified or just made."""
        self._index.add_run(run, self._offset)
        self._append(run)

    def _append(self, data: bytes | memoryview) -> None:
        self._file.write([data])
        self._offset += len(data)
        if self._offset - self._started >= self._stretch_size:
            self._write_back()

    def _write_back(self) -> None:
        """Have the whole pages that are new written, one stretch at a time.

        A flush compresses the next one meanwhile: under load writers wait for its end. A compaction would read, and
        both would be in the log's way; nobody waits for it until the log is closed.
        """
        descriptor, start = self._file.descriptor, self._started
        size = self._offset - self._offset % PAGE_SIZE_BYTES - start
        if self._keep_cached:
            write_back(descriptor, self._written, start - self._written, wait=True)
            write_back(descriptor, start, size, wait=False)
            self._written = start
        else:
            write_back(descriptor, start, size, wait=not self._hurried())
            os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_DONTNEED)
        self._started = start + size

    def publish(
        self,
        directory: Path,
        data_bytes: int,
        metadata: TableMetadata,
        check: Callable[[Path], None] | None = None,
    ) -> TableInfo:
        """Finish the table, whose entries hold ``data_bytes``, and give it its name in ``directory``.

        For ``check`` see `DurableReplacement`.
        """
        totals = self._index
        if totals.blocks == 0:
            raise ValueError("a table needs at least one entry")
        index, meta = bytes(totals), metadata.pack()
        footer = Footer(
            self._store_id,
            totals.min_lsn,
            totals.last_lsn,
            totals.entries,
            totals.min_timestamp,
            totals.max_timestamp,
            self._offset,
            totals.blocks,
            crc32c(index, crc32c(self._store_id)),
            self._offset + len(index),
            len(meta),
            crc32c(meta, crc32c(self._store_id)),
            data_bytes,
        )
        self._append(index + meta + footer.pack())
        header = TableHeader(self._store_id, totals.min_lsn, totals.last_lsn).pack()
        if os.pwrite(self._file.descriptor, header, 0) != len(header):
            raise OSError("short write of a table header")
        info = TableInfo(
            table_name(totals.min_lsn, totals.last_lsn),
            totals.min_lsn,
            totals.last_lsn,
            totals.entries,
            totals.blocks,
            data_bytes,
            self._offset,
            totals.min_timestamp,
            totals.max_timestamp,
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
    beside: Sequence[EntryBatch] = (),
) -> TableInfo:
    """Write ``batches`` (ascending LSNs, gaps allowed) as a new table in ``directory``; durable on return.

    Compression and writing run without the interpreter's lock. Memory does not depend on the size of the table, but on
    that of ``beside``.

    Args:
        check: called with the path of the synced file before that gets its name; what it raises ends this.
        beside: what follows ``batches``; another thread packs it at the same time and keeps it in memory.

    Raises:
        ValueError: there is no entry, or LSNs do not ascend.
        OSError: nothing but perhaps the complete table is left behind.
    """
    seed = crc32c(store_id)
    packer = BlockPacker(FLUSH_SIZE_BYTES)
    with (
        DurableReplacement(directory / f"flush{SUFFIX}") as file,
        _PackedBeside(beside, seed) as rest,
    ):
        table = _TableFile(file, store_id, keep_cached=True)
        for run in _pack(packer, batches, seed):
            table.add_run(run)
        for part in rest.runs():
            table.add_run(memoryview(part))
        data_bytes = packer.data_bytes + rest.data_bytes
        return table.publish(directory, data_bytes, metadata, check)


def _pack(packer: BlockPacker, batches: Iterable[EntryBatch], seed: int) -> Iterator[memoryview]:
    """Yield runs of blocks with the entries of ``batches``; each is changed by what comes after it."""
    from kifa.zstd import ZstdCompressor  # 5 ms that a reader of an empty store need not pay

    compressor = ZstdCompressor(level=COMPRESSION_LEVEL)

    def seal() -> bool:
        return packer.seal(compressor.compress(packer.payload(), compressor.FLUSH_FRAME), seed)

    for batch in batches:
        start = 0
        while start < len(batch):
            start += packer.add(batch, start)
            if start < len(batch) and seal():
                yield packer.take_run()
    if len(packer):
        seal()
    yield packer.take_run()


class _PackedBeside:
    """Packs batches in a thread of its own, which has ended when the context is left."""

    def __init__(self, batches: Sequence[EntryBatch], seed: int) -> None:
        self._packer = BlockPacker(FLUSH_SIZE_BYTES) if batches else None
        self._runs: list[bytes] = []
        self._failure: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(batches, seed), name="kifa-pack", daemon=True
        )

    def _run(self, batches: Sequence[EntryBatch], seed: int) -> None:
        assert self._packer is not None
        try:
            self._runs += map(bytes, _pack(self._packer, batches, seed))
        except BaseException as error:  # raised by `runs`
            self._failure = error

    def __enter__(self) -> _PackedBeside:
        if self._packer is not None:
            try:
                self._thread.start()
            except (
                RuntimeError
            ):  # no more threads: it takes longer, and a flush must not fail for that
                self._thread.run()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self._thread.join()

    @property
    def data_bytes(self) -> int:
        """Of the entries in `runs`."""
        return self._packer.data_bytes if self._packer is not None else 0

    def runs(self) -> list[bytes]:
        """Wait for all runs of blocks and return them. Raises what packing them raised."""
        self.__exit__()
        if self._failure is not None:
            raise self._failure
        return self._runs


def concatenate_tables(
    directory: Path, tables: Sequence[Table], hurried: Callable[[], bool] = lambda: False
) -> TableInfo:
    """Write one table with the blocks of ``tables`` (in LSN order, no overlap), copied whole; durable on return.

    Every block's CRC is verified before it is copied, and nothing is decoded or signed again.

    Args:
        hurried: whether nobody appends meanwhile, for whom it would have to be slow.

    Raises:
        DamagedError: an input is damaged; it must be left alone. No new table exists.
        ValueError: the inputs overlap or are not in order.
        OSError: an input cannot be read, or the output cannot be written.
    """
    for table in tables:
        table.require_intact()
    with DurableReplacement(directory / f"compaction{SUFFIX}") as file:
        output = _TableFile(file, tables[0].store_id, keep_cached=False, hurried=hurried)
        for table in tables:
            for run in table.verified_runs():
                output.add_run(run)
        data_bytes = sum(table.info.data_bytes for table in tables)
        return output.publish(
            directory, data_bytes, merge_metadata(table.metadata for table in tables)
        )
