"""One WAL segment: its header, and the walk over its records (FORMAT.md, "WAL segment")."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from crc32c import crc32c

BLOCK_SIZE_BYTES = 4096
SECTOR_SIZE_BYTES = 512
RECORDS_OFFSET = 2 * BLOCK_SIZE_BYTES
MAX_DATA_SIZE_BYTES = 1 << 20
ENTRY, SOURCE_CHECKPOINT, CLOCK_STEP, CLOSE = range(4)
GROUP_START, GROUP_END = 1, 2

_HEADER = struct.Struct("<8sII16sQQQQQQB")
_RECORD_HEAD = struct.Struct("<IBBHI")
_LSN_AND_TIME = struct.Struct("<QQ")
_TRAILER = struct.Struct("<I8s")
_RECORD_MAGIC = b"KIFA-REC"
_OVERHEAD_BYTES = 40
# What can begin a record: a length up to 1 MiB, known flags and type, zeros. Looked for at every byte.
_CANDIDATE = re.compile(rb"(?=..[\x00-\x10]\x00[\x00-\x03][\x00-\x03]\x00\x00)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """What the header of a segment says."""

    store_id: bytes
    sequence: int
    salt: int
    first_lsn: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Record:
    """A record; `is_valid` is False where only its header is, and then LSN, time and data mean nothing."""

    offset: int
    end: int
    flags: int
    type: int
    is_valid: bool
    lsn: int = 0
    timestamp_ms: int = 0
    data: bytes = b""

    @property
    def next_offset(self) -> int:
        """Where the next record is expected."""
        return _block_end(self.end) if self.flags & GROUP_END else self.end


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as it was walked.

    Args:
        name: of its file.
        first_lsn: of the header, or of the name where both headers are damaged.
        header: None if both copies are damaged, or it belongs to another store.
        records: what was taken and what was stepped over, in order.
        size_bytes: of the file.
    """

    name: str
    first_lsn: int
    header: SegmentHeader | None
    records: tuple[Record, ...]
    size_bytes: int

    def holes(self, records: list[Record]) -> Iterator[tuple[int, int]]:
        """Give the invalid areas, as (offset, end), before and between the given records of this segment."""
        expected = RECORDS_OFFSET
        for record in records:
            if record.offset > expected:
                yield expected, record.offset
            if not record.is_valid:
                yield record.offset, record.end
            expected = record.next_offset


def read_header(image: bytes) -> SegmentHeader | None:
    """Return what the first intact copy of a segment's header says; None if neither is intact."""
    for offset in (0, BLOCK_SIZE_BYTES):
        block = image[offset : offset + BLOCK_SIZE_BYTES]
        if len(block) < BLOCK_SIZE_BYTES:
            continue
        (magic, version, block_size, store_id, sequence, salt, first_lsn, size, _, _, _) = (
            _HEADER.unpack_from(block)
        )
        if magic != b"KIFAWAL1" or version != 1 or block_size != BLOCK_SIZE_BYTES:
            continue
        if crc32c(block[:-4]) == int.from_bytes(block[-4:], "little"):
            return SegmentHeader(store_id, sequence, salt, first_lsn, size)
    return None


def read_segment(name: str, image: bytes, store_id: bytes | None) -> Segment:
    """Walk a segment.

    Args:
        store_id: of the store; None takes any.
    """
    header = read_header(image)
    if header is None or (store_id is not None and header.store_id != store_id):
        first_lsn = header.first_lsn if header is not None else int(name.split(".")[0], 16)
        return Segment(name, first_lsn, None, (), len(image))
    records = tuple(_walk(image, header.salt))
    return Segment(name, header.first_lsn, header, records, len(image))


def _walk(image: bytes, salt: int) -> Iterator[Record]:
    position = RECORDS_OFFSET
    while position < len(image):
        record = _record_at(image, position, salt)
        if record is None:
            record = _next_valid(image, position + 1, salt)
            if record is None:
                return
        yield record
        position = record.next_offset


def _next_valid(image: bytes, position: int, salt: int) -> Record | None:
    # No valid record can begin behind the last magic; recycled and fresh space costs nothing this way.
    last_magic = image.rfind(_RECORD_MAGIC, position)
    if last_magic < 0:
        return None
    for match in _CANDIDATE.finditer(image, position, last_magic):
        record = _record_at(image, match.start(), salt)
        if record is not None and record.is_valid:
            return record
    return None


def _record_at(image: bytes, offset: int, salt: int) -> Record | None:
    """Return the record at an offset; None if not even its header is valid, or it does not fit."""
    if offset + _OVERHEAD_BYTES > len(image):
        return None
    length, flags, kind, reserved, header_crc = _RECORD_HEAD.unpack_from(image, offset)
    if length > MAX_DATA_SIZE_BYTES or flags > 3 or kind > CLOSE or reserved:
        return None
    if crc32c(image[offset : offset + 8], salt & 0xFFFFFFFF) != header_crc:
        return None
    end = offset + _OVERHEAD_BYTES + length
    if end > len(image):
        return None
    body = image[offset + 12 : offset + 28 + length]
    data_crc, magic = _TRAILER.unpack_from(image, end - _TRAILER.size)
    if magic != _RECORD_MAGIC or crc32c(body, salt >> 32) != data_crc:
        return Record(offset, end, flags, kind, False)
    lsn, timestamp_ms = _LSN_AND_TIME.unpack_from(body)
    return Record(offset, end, flags, kind, True, lsn, timestamp_ms, body[_LSN_AND_TIME.size :])


def _block_end(offset: int) -> int:
    return -(-offset // BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES
