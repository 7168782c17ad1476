"""The fixed parts of a sorted table (docs/FORMAT.md, "Sorted table"): headers, index row, footer, metadata.

The small ones are named tuples: made once per block, and loaded in a tenth of a dataclass's time by every command.
Parsing returns None for anything that is not wholly valid, CRC included; the reader decides what that costs.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from kifa._crc32c import crc32c
from kifa._typing import Any, NamedTuple
from kifa.errors import Damage

TABLE_DIRECTORY = "sst"
SUFFIX = ".sst"
VERSION = 1
MAX_U64 = 2**64 - 1
MAX_CLOCK_STEPS = 64
STORE_ID_SIZE = 16

# How much of a table is copied at once, about: the log's sync may wait for it in the device's queue.
RUN_SIZE_BYTES = 160 << 10

CODEC_NONE = 0
CODEC_ZSTD = 1

_HEADER = struct.Struct("<8sII16sQQ12s")
_BLOCK_HEADER = struct.Struct("<8sQIB3sIIQQI")
INDEX_ROW = struct.Struct("<QIIQQQ")
_FOOTER = struct.Struct("<8s16sQQQQQQIIQIIQI")
_CRC = struct.Struct("<I")

HEADER_MAGIC = b"KIFASST1"
BLOCK_MAGIC = b"KIFABLK1"
FOOTER_MAGIC = b"KIFAFTR1"
HEADER_SIZE = _HEADER.size + _CRC.size
BLOCK_HEADER_SIZE = _BLOCK_HEADER.size + _CRC.size
FOOTER_SIZE = _FOOTER.size + _CRC.size


def table_name(min_lsn: int, max_lsn: int) -> str:
    """Return the file name of the table that holds ``min_lsn`` to ``max_lsn``."""
    return f"{min_lsn:016x}-{max_lsn:016x}{SUFFIX}"


def parse_table_name(name: str) -> tuple[int, int] | None:
    """Return the LSN range that ``name`` tells, or None where it is no table's name."""
    stem = name.removesuffix(SUFFIX)
    if len(stem) != 33 or len(name) != 33 + len(SUFFIX) or stem[16] != "-":
        return None
    try:
        low, high = int(stem[:16], 16), int(stem[17:], 16)
    except ValueError:
        return None
    return (low, high) if table_name(low, high) == name else None


def _sign(packed: bytes, seed: int) -> bytes:
    return packed + _CRC.pack(crc32c(packed, seed))


def _is_signed(data: bytes, seed: int) -> bool:
    return data[-_CRC.size :] == _CRC.pack(crc32c(memoryview(data)[: -_CRC.size], seed))


class TableHeader(NamedTuple):
    """The first 64 bytes."""

    store_id: bytes
    min_lsn: int
    max_lsn: int

    def pack(self) -> bytes:
        packed = _HEADER.pack(
            HEADER_MAGIC, VERSION, 0, self.store_id, self.min_lsn, self.max_lsn, bytes(12)
        )
        return _sign(packed, crc32c(self.store_id))

    @classmethod
    def parse(cls, data: bytes) -> TableHeader | None:
        """Read a header, which is signed with the store id that it holds."""
        if len(data) != HEADER_SIZE:
            return None
        magic, version, zero, store_id, min_lsn, max_lsn, zeros = _HEADER.unpack_from(data)
        valid = magic == HEADER_MAGIC and version == VERSION and zero == 0 and not any(zeros)
        if not valid or not _is_signed(data, crc32c(store_id)):
            return None
        return cls(store_id, min_lsn, max_lsn)


class BlockHeader(NamedTuple):
    """The 56 bytes before a block's payload; sizes in bytes, timestamps in Unix ms."""

    first_lsn: int
    entries: int
    codec: int
    stored_size: int
    raw_size: int
    min_timestamp: int
    max_timestamp: int
    payload_crc: int

    @property
    def last_lsn(self) -> int:
        return self.first_lsn + self.entries - 1

    @property
    def block_size(self) -> int:
        """Header and payload, in bytes."""
        return BLOCK_HEADER_SIZE + self.stored_size

    @classmethod
    def parse(cls, data: bytes, seed: int) -> BlockHeader | None:
        """Read a block header signed under ``seed``, the CRC of the store id."""
        if len(data) != BLOCK_HEADER_SIZE or not _is_signed(data, seed):
            return None
        magic, _, entries, codec, zeros, *_ = _BLOCK_HEADER.unpack_from(data)
        if (
            magic != BLOCK_MAGIC
            or any(zeros)
            or entries == 0
            or codec not in (CODEC_NONE, CODEC_ZSTD)
        ):
            return None
        return cls.unpack(data)

    @classmethod
    def unpack(cls, block: bytes) -> BlockHeader:
        """Return the header of a block that was verified."""
        _, first_lsn, entries, codec, _, *fields = _BLOCK_HEADER.unpack_from(block)
        return cls(first_lsn, entries, codec, *fields)


class IndexRow(NamedTuple):
    """Where one block is; ``size`` and ``offset`` in bytes, timestamps in Unix ms."""

    first_lsn: int
    entries: int
    size: int
    offset: int
    min_timestamp: int
    max_timestamp: int

    @property
    def last_lsn(self) -> int:
        return self.first_lsn + self.entries - 1

    def pack(self) -> bytes:
        return INDEX_ROW.pack(
            self.first_lsn,
            self.entries,
            self.size,
            self.offset,
            self.min_timestamp,
            self.max_timestamp,
        )

    @classmethod
    def at(cls, index: bytes, position: int) -> IndexRow:
        """Return row ``position`` of a packed index."""
        return cls(*INDEX_ROW.unpack_from(index, position * INDEX_ROW.size))


class Footer(NamedTuple):
    """The last 112 bytes; offsets and sizes in bytes, timestamps in Unix ms."""

    store_id: bytes
    min_lsn: int
    max_lsn: int
    entries: int
    min_timestamp: int
    max_timestamp: int
    index_offset: int
    blocks: int
    index_crc: int
    metadata_offset: int
    metadata_size: int
    metadata_crc: int
    data_bytes: int

    def pack(self) -> bytes:
        packed = _FOOTER.pack(
            FOOTER_MAGIC,
            self.store_id,
            self.min_lsn,
            self.max_lsn,
            self.entries,
            self.min_timestamp,
            self.max_timestamp,
            self.index_offset,
            self.blocks,
            self.index_crc,
            self.metadata_offset,
            self.metadata_size,
            self.metadata_crc,
            self.data_bytes,
            VERSION,
        )
        return _sign(packed, crc32c(self.store_id))

    @classmethod
    def parse(cls, data: bytes) -> Footer | None:
        """Read a footer, which is signed with the store id that it holds."""
        if len(data) != FOOTER_SIZE:
            return None
        magic, store_id, *fields, version = _FOOTER.unpack_from(data)
        if magic != FOOTER_MAGIC or version != VERSION or not _is_signed(data, crc32c(store_id)):
            return None
        return cls(store_id, *fields)


class TableMetadata(NamedTuple):
    """What a table carries beside entries: the control records of its LSN range."""

    sources: Mapping[str, Any] = MappingProxyType({})  # latest value of each source checkpoint
    clock_steps: tuple[tuple[int, int, int], ...] = ()  # (lsn, expected_ms, actual_ms), ascending
    clock_step_count: int = 0  # of all steps, also those no longer in clock_steps
    damage: tuple[Damage, ...] = ()  # what was already lost when the table was written

    def pack(self) -> bytes:
        body = {
            "sources": dict(self.sources),
            "clock_steps": [list(step) for step in self.clock_steps[-MAX_CLOCK_STEPS:]],
            "clock_step_count": max(self.clock_step_count, len(self.clock_steps)),
            "damage": [
                {
                    "file": lost.file,
                    "first_lsn": lost.first_lsn,
                    "last_lsn": lost.last_lsn,
                    "reason": lost.reason,
                }
                for lost in self.damage
            ],
        }
        # escapes keep file names that are not UTF-8 (lone surrogates in Python) within valid UTF-8
        return json.dumps(body, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, data: bytes) -> TableMetadata | None:
        """Read metadata whose CRC was found right."""
        try:
            body = json.loads(data)
            return cls(
                body["sources"],
                tuple((int(lsn), int(old), int(new)) for lsn, old, new in body["clock_steps"]),
                int(body["clock_step_count"]),
                tuple(Damage(kind="gap", offset=None, **lost) for lost in body["damage"]),
            )
        except (ValueError, KeyError, TypeError):
            return None


def merge_metadata(parts: Iterable[TableMetadata]) -> TableMetadata:
    """Return the metadata of a table made of tables with ``parts``, in ascending LSN order."""
    sources: dict[str, Any] = {}
    clock_steps: tuple[tuple[int, int, int], ...] = ()
    clock_step_count = 0
    damage: tuple[Damage, ...] = ()
    for part in parts:
        sources |= part.sources
        clock_steps = (clock_steps + part.clock_steps)[-MAX_CLOCK_STEPS:]
        clock_step_count += part.clock_step_count
        damage += part.damage
    return TableMetadata(sources, clock_steps, clock_step_count, damage)


class TableInfo(NamedTuple):
    """What is known of a table without reading its blocks; sizes in bytes, timestamps in Unix ms."""

    name: str
    min_lsn: int
    max_lsn: int
    entries: int
    blocks: int
    data_bytes: int  # of the entries, uncompressed
    size_bytes: int  # of the file
    min_timestamp: int
    max_timestamp: int
