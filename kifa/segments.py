"""WAL segments as files: headers and names. What in them counts is for `judgement.py`. Nothing here writes."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

from kifa._crc32c import crc32c
from kifa._scan import SegmentScanner
from kifa._typing import NamedTuple, Self
from kifa.fs import list_names

WAL_DIRECTORY = "wal"
SEGMENT_SUFFIX = ".wal"
SPARE_SUFFIX = ".spare"

BLOCK_SIZE = 4096
DATA_OFFSET = 2 * BLOCK_SIZE
DEFAULT_SEGMENT_SIZE_BYTES = 16 << 20
RECORD_OVERHEAD = 40
FORMAT_VERSION = 1
_HEADER = struct.Struct("<8sII16sQQQQQQB")
_MAGIC = b"KIFAWAL1"

FLUSH_MODES = ("normal", "cautious", "emergency")


class SegmentChanged(Exception):
    """The segment was recycled while it was read; list the store again."""


class SegmentHeader(NamedTuple):
    """The first block of a segment, and its copy, the second."""

    store_id: bytes
    sequence: int
    salt: int
    first_lsn: int
    size_bytes: int
    wall_ms: int
    monotonic_ns: int
    flush_mode: str

    def encode(self) -> bytes:
        """Return the block of 4096 bytes."""
        block = bytearray(BLOCK_SIZE)
        _HEADER.pack_into(
            block,
            0,
            _MAGIC,
            FORMAT_VERSION,
            BLOCK_SIZE,
            self.store_id,
            self.sequence,
            self.salt,
            self.first_lsn,
            self.size_bytes,
            self.wall_ms,
            self.monotonic_ns,
            FLUSH_MODES.index(self.flush_mode),
        )
        struct.pack_into("<I", block, BLOCK_SIZE - 4, crc32c(memoryview(block)[: BLOCK_SIZE - 4]))
        return bytes(block)

    @classmethod
    def decode(cls, block: bytes) -> Self | None:
        """Return the header in ``block``; None if it is not a valid one."""
        if len(block) != BLOCK_SIZE:
            return None
        (stored,) = struct.unpack_from("<I", block, BLOCK_SIZE - 4)
        magic, version, block_size, *_ = fields = _HEADER.unpack_from(block)
        flush_mode = fields[-1]
        if (
            magic != _MAGIC
            or version != FORMAT_VERSION
            or block_size != BLOCK_SIZE
            or flush_mode >= len(FLUSH_MODES)
            or stored != crc32c(memoryview(block)[: BLOCK_SIZE - 4])
        ):
            return None
        return cls(*fields[3:-1], flush_mode=FLUSH_MODES[flush_mode])  # type: ignore[misc]


class LogPosition(NamedTuple):
    """An offset in the segment that has this salt, before which it has nothing above ``lsn``, and behind which all."""

    lsn: int
    salt: int
    offset: int


def segment_name(first_lsn: int) -> str:
    """Return the file name of the segment that starts with ``first_lsn``."""
    return f"{first_lsn:016x}{SEGMENT_SUFFIX}"


def parse_hexadecimal_name(name: str, suffix: str) -> int | None:
    """Return the number that ``name`` consists of before ``suffix``; None for any other name."""
    stem = name.removesuffix(suffix)
    if stem == name or len(stem) != 16 or stem.lower() != stem:
        return None
    try:
        return int(stem, 16)
    except ValueError:
        return None


class SegmentFile:
    """An open segment. ``header`` is None if both copies are damaged."""

    def __init__(self, path: Path, named_lsn: int) -> None:
        """Open the segment for reading.

        Raises:
            FileNotFoundError: it was recycled since it was listed.
        """
        self.path = path
        self.name = f"{WAL_DIRECTORY}/{path.name}"
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.file_size_bytes = os.fstat(self.descriptor).st_size
        self.known_size_bytes = 0
        copies = [
            SegmentHeader.decode(os.pread(self.descriptor, BLOCK_SIZE, offset))
            for offset in (0, BLOCK_SIZE)
        ]
        self.header = copies[0] or copies[1]
        self.damaged_copies = [
            index * BLOCK_SIZE for index, copy in enumerate(copies) if copy is None
        ]
        self.first_lsn = self.header.first_lsn if self.header else named_lsn
        self.named_lsn = named_lsn

    @property
    def size_bytes(self) -> int:
        """The size the segment should have."""
        if self.header is not None:
            return self.header.size_bytes
        return max(self.file_size_bytes, self.known_size_bytes)

    @property
    def readable_bytes(self) -> int:
        """How much of that the file has."""
        return min(self.file_size_bytes, self.size_bytes)

    def scanner(self) -> SegmentScanner:
        """Return a scanner of its records. The header must be readable."""
        assert self.header is not None
        return SegmentScanner(self.descriptor, self.header.salt, self.readable_bytes)

    def unchanged(self) -> bool:
        """Whether the file still is the segment that was opened."""
        header = SegmentHeader.decode(
            os.pread(self.descriptor, BLOCK_SIZE, 0)
        ) or SegmentHeader.decode(os.pread(self.descriptor, BLOCK_SIZE, BLOCK_SIZE))
        return header == self.header

    def sync(self) -> None:
        """Make durable what was read. A read-only descriptor can do this; a read-only file system need not."""
        try:
            os.fdatasync(self.descriptor)
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EINVAL):
                raise

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def list_segments(store: Path) -> list[SegmentFile]:
    """Open all segments of ``store``, in LSN order.

    Raises:
        FileNotFoundError: one was recycled in between; list again.
    """
    directory = store / WAL_DIRECTORY
    files: list[SegmentFile] = []
    try:
        for name in list_names(directory):
            named_lsn = parse_hexadecimal_name(name, SEGMENT_SUFFIX)
            if named_lsn is not None:
                files.append(SegmentFile(directory / name, named_lsn))
    except BaseException:
        for file in files:
            file.close()
        raise
    return sorted(
        files, key=lambda file: (file.first_lsn, file.header.sequence if file.header else 0)
    )
