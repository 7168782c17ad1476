"""Reading sorted tables. Damage costs the blocks it is in: it is reported, and everything else is still served.

`write_table` and `concatenate_tables` (kifa/sstable_writer.py) make tables; what verifies blocks is kifa/_blocks.pyx.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from kifa._batch import EntryBatch
from kifa._blocks import check_blocks, find_run
from kifa._crc32c import crc32c
from kifa._table import find_block, skip_blocks, unpack_block
from kifa._typing import NamedTuple
from kifa.errors import Damage, DamagedError, KifaError
from kifa.sstable_format import (
    BLOCK_HEADER_SIZE,
    CODEC_NONE,
    FOOTER_SIZE,
    HEADER_SIZE,
    INDEX_ROW,
    MAX_U64,
    RUN_SIZE_BYTES,
    BlockHeader,
    Footer,
    IndexRow,
    TableHeader,
    TableInfo,
    TableMetadata,
    parse_table_name,
)

LARGE_INDEX_SIZE_BYTES = 1 << 20  # of a table of 1.6 GiB of entries

OnDamage = Callable[[Damage], None]


class SkippedRange(NamedTuple):
    """LSNs, both inclusive, that are there but hold no timestamp of the range asked for."""

    first_lsn: int
    last_lsn: int


class ForeignTableError(KifaError):
    """The table belongs to another store."""


class _BlockDamageError(Exception):
    """A block cannot be used; the message says why."""


class Table:
    """One sorted table, open for reading. A file that is deleted meanwhile stays readable until `close`."""

    def __init__(self, path: Path, store_id: bytes, *, keep_open: bool = True) -> None:
        """Open the table at ``path`` by its footer; where that is damaged, by walking its blocks.

        Args:
            keep_open: hold a descriptor until `close`; otherwise only while something is read, and a file that is
                deleted in between is a FileNotFoundError of what reads.

        Raises:
            FileNotFoundError: it is gone (compaction replaced it: list the tables again).
            ForeignTableError: it is whole, and of another store.
            OSError: it cannot be read at all.
        """
        self.name = path.name
        self.store_id = store_id
        self.damage: list[Damage] = []  # found on opening; blocks report theirs when they are read
        self._seed = crc32c(store_id)
        self._index: bytes | None = None
        self._metadata: TableMetadata | None = None
        self._path = path
        self._keep_open = keep_open
        self._file = path.open("rb", buffering=0)
        self._inode = os.fstat(self._file.fileno()).st_ino
        try:
            self._open_by_footer()
        except BaseException:
            self.close()
            raise
        self._rest()

    def _open_by_footer(self) -> None:
        self._size = os.fstat(self._file.fileno()).st_size
        header = TableHeader.parse(self._read_or_empty(0, HEADER_SIZE))
        footer = Footer.parse(self._read_or_empty(self._size - FOOTER_SIZE, FOOTER_SIZE))
        for part in (header, footer):
            if part is not None and part.store_id != self.store_id:
                raise ForeignTableError(
                    f"{self.name} belongs to store {part.store_id.hex()}, "
                    f"not {self.store_id.hex()}; move it out of sst/",
                    file=self._file_name,
                )
        if header is None:
            self._note(0, "the header is damaged")
        self._header, self._footer = header, footer
        if footer is None:
            self._note(max(self._size - FOOTER_SIZE, 0), "the footer is damaged")
            self._metadata = TableMetadata()
            self._salvage(self._size)
        else:
            self.info = TableInfo(
                self.name,
                footer.min_lsn,
                footer.max_lsn,
                footer.entries,
                footer.blocks,
                footer.data_bytes,
                self._size,
                footer.min_timestamp,
                footer.max_timestamp,
            )

    def close(self) -> None:
        """Give the descriptor back. Idempotent."""
        self._file.close()

    def _rest(self) -> None:
        if not self._keep_open:
            self._file.close()

    def _descriptor(self) -> int:
        """Return the open descriptor; open the file again if it is at rest.

        Raises:
            FileNotFoundError: it is not there any more.
        """
        if self._file.closed and not self._keep_open:
            self._file = self._path.open("rb", buffering=0)
            if os.fstat(self._file.fileno()).st_ino != self._inode:
                self._file.close()
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path))
        return self._file.fileno()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _file_name(self) -> str:
        return f"sst/{self.name}"

    def _note(self, offset: int, reason: str, lsns: tuple[int, int] | None = None) -> None:
        first, last = lsns or (None, None)
        self.damage.append(Damage("corruption", self._file_name, offset, first, last, reason))

    def _read(self, offset: int, size: int) -> bytes:
        """Read exactly ``size`` bytes, or raise `_BlockDamageError`."""
        try:
            data = os.pread(self._descriptor(), size, offset) if offset >= 0 else b""
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _BlockDamageError(f"cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise _BlockDamageError(f"ends after {max(offset, 0) + len(data)} bytes")
        return data

    def _read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill ``buffer``, or raise `_BlockDamageError`. New memory for each MiB costs more than reading it."""
        try:
            size = os.preadv(self._descriptor(), [buffer], offset)
        except OSError:
            size = 0
        if size != len(buffer):
            buffer[:] = self._read(offset, len(buffer))  # tells why not

    def _read_or_empty(self, offset: int, size: int) -> bytes:
        try:
            return self._read(offset, size)
        except _BlockDamageError:
            return b""

    def _salvage(self, end: int) -> None:
        """Build the index by walking the blocks up to offset ``end``."""
        from kifa.sstable_salvage import salvage_index  # needed for damaged tables only

        known = parse_table_name(self.name)
        if self._header is not None:
            known = (self._header.min_lsn, self._header.max_lsn)
        salvage = salvage_index(self._read_or_empty, end, self._seed, known)
        self._index = salvage.index
        for area in salvage.areas:
            self._note(area.offset, area.reason, area.lsns)
        if self._footer is None:
            self.info = salvage.info(self.name, self._size, known)

    @property
    def index(self) -> bytes:
        """The packed index, verified; rebuilt from the blocks where it is damaged."""
        if self._index is None:
            footer = self._footer
            assert footer is not None
            index = self._read_or_empty(footer.index_offset, footer.blocks * INDEX_ROW.size)
            if crc32c(index, self._seed) == footer.index_crc and index:
                self._index = index
            else:
                self._note(footer.index_offset, "the index is damaged")
                self._salvage(footer.index_offset)
            self._rest()
        assert self._index is not None
        return self._index

    @property
    def metadata(self) -> TableMetadata:
        """Source checkpoints, clock steps and recorded damage; empty where that part is damaged."""
        if self._metadata is None:
            footer = self._footer
            assert footer is not None
            data = self._read_or_empty(footer.metadata_offset, footer.metadata_size)
            intact = crc32c(data, self._seed) == footer.metadata_crc
            self._metadata = TableMetadata.parse(data) if intact else None
            if self._metadata is None:
                self._note(footer.metadata_offset, "the metadata is damaged")
                self._metadata = TableMetadata()
            self._rest()
        return self._metadata

    @property
    def metadata_is_intact(self) -> bool:
        """Whether `metadata` is what was written."""
        return self._footer is not None and not any(
            place.offset == self._footer.metadata_offset for place in self.damage if self.metadata
        )

    @property
    def min_lsn(self) -> int:
        """The lowest LSN it was written with."""
        return self.info.min_lsn

    @property
    def max_lsn(self) -> int:
        """The highest LSN it was written with."""
        return self.info.max_lsn

    @property
    def blocks(self) -> int:
        """How many blocks the index names."""
        return len(self.index) // INDEX_ROW.size

    def require_intact(self) -> None:
        """Check header, footer, index and metadata (not the blocks).

        Raises:
            DamagedError: one of them is damaged.
        """
        _ = self.index, self.metadata
        if self.damage:
            raise DamagedError(str(self.damage[0]), list(self.damage))

    def _decode(self, index: bytes, position: int) -> EntryBatch:
        row = IndexRow.at(index, position)
        block = self._read(row.offset, row.size)
        _, reason = check_blocks(block, index, position, 1, self._seed)
        if reason is not None:
            raise _BlockDamageError(reason)
        header = BlockHeader.unpack(block)
        try:
            if header.codec == CODEC_NONE:
                payload = block[BLOCK_HEADER_SIZE:]
            else:
                payload = _decompress(memoryview(block)[BLOCK_HEADER_SIZE:], header.raw_size)
            if len(payload) != header.raw_size:
                raise ValueError(f"{len(payload)} bytes instead of {header.raw_size}")
            return unpack_block(payload, header.first_lsn, header.entries, header.min_timestamp)
        except ValueError as error:
            raise _BlockDamageError(f"the payload of a block does not decode: {error}") from error

    def batches(
        self,
        from_lsn: int = 1,
        to_lsn: int = MAX_U64,
        *,
        from_time: int = 0,
        to_time: int = MAX_U64,
        reverse: bool = False,
        on_damage: OnDamage | None = None,
    ) -> Iterator[EntryBatch | SkippedRange]:
        """Yield the entries of an LSN range (inclusive), a batch for each block, ascending or descending.

        Blocks that a time range (Unix ms, inclusive) rules out are not read: a `SkippedRange` stands for them. Other
        batches may still hold entries outside of it. ``on_damage`` is told of each block that is damaged.
        """
        try:
            yield from self._batches(from_lsn, to_lsn, from_time, to_time, reverse, on_damage)
        finally:
            self._rest()
            if len(self._index or b"") > LARGE_INDEX_SIZE_BYTES and not self.damage:
                self._index = (
                    None  # the next table has its own, and memory must not grow with the store
                )

    def _batches(
        self,
        from_lsn: int,
        to_lsn: int,
        from_time: int,
        to_time: int,
        reverse: bool,
        on_damage: OnDamage | None,
    ) -> Iterator[EntryBatch | SkippedRange]:
        index, blocks = self.index, self.blocks
        position = find_block(index, to_lsn if reverse else from_lsn)
        position = min(position, blocks - 1) if reverse else position
        step = -1 if reverse else 1
        while 0 <= position < blocks:
            skipped = skip_blocks(index, position, from_lsn, to_lsn, from_time, to_time, reverse)
            if skipped:
                ends = sorted((position, position + step * (skipped - 1)))
                low, high = (IndexRow.at(index, end) for end in ends)
                yield SkippedRange(max(low.first_lsn, from_lsn), min(high.last_lsn, to_lsn))
                position += step * skipped
                continue
            row = IndexRow.at(index, position)
            if row.last_lsn < from_lsn if reverse else row.first_lsn > to_lsn:
                return
            try:
                batch = self._decode(index, position)
            except _BlockDamageError as error:
                if on_damage is not None:
                    on_damage(self._block_damage(row, error))
                continue
            finally:
                position += step
            part = batch.within(from_lsn, to_lsn)
            if len(part):
                yield part

    def _block_damage(self, row: IndexRow, error: _BlockDamageError) -> Damage:
        kind = "truncated file" if row.offset + row.size > self._size else "corruption"
        return Damage(kind, self._file_name, row.offset, row.first_lsn, row.last_lsn, str(error))

    def verified_runs(self) -> Iterator[memoryview]:
        """Yield all blocks, undecoded and verified, several that lie together at a time; each run until the next.

        Raises:
            DamagedError: a block is damaged.
        """
        index, position = self.index, 0
        self._stop_read_ahead()
        buffer = bytearray(RUN_SIZE_BYTES)
        while position < self.blocks:
            count, start, size = find_run(index, position, RUN_SIZE_BYTES)
            if size > len(buffer):
                buffer = bytearray(size)
            run = memoryview(buffer)[:size]
            try:
                self._read_into(run, start)
                whole, reason = check_blocks(run, index, position, count, self._seed)
                position += whole
                if reason is not None:
                    raise _BlockDamageError(reason)
            except _BlockDamageError as error:
                damage = self._block_damage(IndexRow.at(index, position), error)
                raise DamagedError(str(damage), [damage]) from error
            yield run
            os.posix_fadvise(self._descriptor(), start, size, os.POSIX_FADV_DONTNEED)

    def _stop_read_ahead(self) -> None:
        """Let the system read no more than is asked for: behind its 8 MiB at once a sync of the log waits for ms."""
        descriptor = self._descriptor()
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        # Who read the header has left a mark in the page behind it, where reading ahead begins for every descriptor.
        os.posix_fadvise(descriptor, 0, RUN_SIZE_BYTES, os.POSIX_FADV_DONTNEED)

    def verify(self, on_progress: Callable[[int], None] | None = None) -> list[Damage]:
        """Read and decode every byte; return all damage. ``on_progress`` is told the bytes of each block read."""
        _ = self.index, self.metadata
        found: list[Damage] = []
        for position in range(self.blocks):
            row = IndexRow.at(self.index, position)
            try:
                self._decode(self.index, position)
            except _BlockDamageError as error:
                found.append(self._block_damage(row, error))
            if on_progress is not None:
                on_progress(row.size)
        self._rest()
        return self.damage + found


def read_store_id(path: Path) -> bytes | None:
    """Return the id of the store that the table at ``path`` was written for; None where header and footer are damaged.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        header = TableHeader.parse(file.read(HEADER_SIZE))
        if header is not None:
            return header.store_id
        file.seek(max(file.seek(0, os.SEEK_END) - FOOTER_SIZE, 0))
        footer = Footer.parse(file.read(FOOTER_SIZE))
        return footer.store_id if footer is not None else None


def _decompress(stored: memoryview, raw_size: int) -> bytes:
    """Decode one zstd frame of ``raw_size`` bytes. Raises ValueError."""
    from kifa.zstd import ZstdDecompressor, ZstdError  # 5 ms that an empty store need not pay

    decompressor = ZstdDecompressor()
    try:
        raw = decompressor.decompress(stored, raw_size)
    except ZstdError as error:
        raise ValueError(str(error)) from error
    if not decompressor.eof or decompressor.unused_data:
        raise ValueError("not one whole zstd frame")
    return raw
