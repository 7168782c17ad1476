"""One file that is tailed: which it is, how far it was read, and whether it still is what it was.

A file is known by its inode and by its head, the first bytes that were read of it (up to 1 KiB). The inode alone
names another file after it was freed and used again; the head alone cannot tell a copy. A head that changed means
that the file was truncated and written anew.
"""

from __future__ import annotations

import enum
import os
import stat

from kifa._crc32c import crc32c
from kifa._lines import LineBuffer
from kifa._typing import Any, NamedTuple, Self

HEAD_SIZE_BYTES = 1024
CHUNK_SIZE_BYTES = 256 * 1024
# At either end, of a file that may be a copy.
COMPARED_SIZE_BYTES = 1 << 20
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class Found(enum.Enum):
    """What a read found."""

    DATA = enum.auto()
    END = enum.auto()
    TRUNCATED = enum.auto()


class Mark(NamedTuple):
    """A file and how far it was read, as in a source checkpoint. Sizes and offsets in bytes."""

    inode: int
    offset: int  # of the first line that is not stored
    head_size: int
    head_crc: int
    changed_ns: int  # mtime when it was last read
    is_copy: bool = False

    def encode(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        fields = {
            "ino": self.inode,
            "offset": self.offset,
            "head_size": self.head_size,
            "head_crc": self.head_crc,
            "mtime_ns": self.changed_ns,
        }
        return fields | {"copy": True} if self.is_copy else fields

    @classmethod
    def decode(cls, fields: dict[str, Any]) -> Mark:
        """The inverse of `encode`."""
        return cls(
            fields["ino"],
            fields["offset"],
            fields["head_size"],
            fields["head_crc"],
            fields.get("mtime_ns", 0),
            fields.get("copy", False),
        )

    def matches(self, descriptor: int) -> bool:
        """Whether the open file has this head, and what was read of it."""
        return self.has_head(descriptor) and os.fstat(descriptor).st_size >= self.offset

    def has_head(self, descriptor: int) -> bool:
        """Whether the open file begins as this one."""
        head = os.pread(descriptor, self.head_size, 0)
        return len(head) == self.head_size and crc32c(head) == self.head_crc


class Generation:
    """An open file."""

    def __init__(self, descriptor: int, max_line_size_bytes: int) -> None:
        """Take over ``descriptor``, to read from the beginning."""
        status = os.fstat(descriptor)
        self.descriptor = descriptor
        self.identity = (status.st_dev, status.st_ino)
        self.first_size_bytes = status.st_size
        self._changed_ns = status.st_mtime_ns
        self.is_copy = False
        self.is_dirty = True
        """Whether it may have changed since it was read to its end."""
        self.is_passed = False
        """Whether a newer one is being read."""
        self.changed_at = 0.0
        self.is_ended = False
        """Whether its half line was made a line; `begin_new_line` follows once that is stored."""
        self.watch: int | None = None
        self.head = b""
        self._max_line_size_bytes = max_line_size_bytes
        self._start = 0
        self.lines = self._lines_from(0)

    @classmethod
    def open(cls, path: str, max_line_size_bytes: int) -> Self:
        """Open the file at ``path``.

        Raises:
            OSError: it cannot be opened, or is no regular file.
        """
        descriptor = os.open(path, _OPEN_FLAGS)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(f"{path} is no regular file")
            return cls(descriptor, max_line_size_bytes)
        except BaseException:
            os.close(descriptor)
            raise

    def _lines_from(self, offset: int) -> LineBuffer:
        self._start = self._position = offset
        self.is_ended = False
        os.lseek(self.descriptor, offset, os.SEEK_SET)
        return LineBuffer(self._max_line_size_bytes, CHUNK_SIZE_BYTES)

    @property
    def offset(self) -> int:
        """Bytes up to the end of the last line taken."""
        return self._start + self.lines.consumed_bytes

    @property
    def read_bytes(self) -> int:
        """Bytes read, lines not yet ended included."""
        return self._position

    @property
    def size_bytes(self) -> int:
        return os.fstat(self.descriptor).st_size

    @property
    def is_deleted(self) -> bool:
        return os.fstat(self.descriptor).st_nlink == 0

    def is_at(self, path: str) -> bool:
        """Whether it is what ``path`` names."""
        try:
            status = os.stat(path)  # noqa: PTH116
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self.identity

    @property
    def has_half_line(self) -> bool:
        return self.lines.pending_bytes > 0 or self.lines.is_discarding

    @property
    def mark(self) -> Mark:
        """What a checkpoint says of it."""
        head = self.head[: self.offset]
        return Mark(
            self.identity[1], self.offset, len(head), crc32c(head), self._changed_ns, self.is_copy
        )

    def resume(self, mark: Mark) -> None:
        """Go on at ``mark``, which it matches."""
        self.head = os.pread(self.descriptor, mark.head_size, 0)
        self._changed_ns = mark.changed_ns
        self.is_copy = mark.is_copy
        self.lines = self._lines_from(mark.offset)

    def is_begun_by(self, later: Generation) -> bool:
        """Whether ``later``, of which nothing was read, had everything that is in this file when it came."""
        size = self.size_bytes
        if later.read_bytes or not self.offset or later.first_size_bytes < size:
            return False
        ends = [
            range(min(size, COMPARED_SIZE_BYTES)),
            range(max(0, size - COMPARED_SIZE_BYTES), size),
        ]
        return all(
            os.pread(self.descriptor, len(end), end.start)
            == os.pread(later.descriptor, len(end), end.start)
            for end in ends
        )

    def skip_to_end(self) -> None:
        """Begin behind the last line end that is in the file now."""
        size = self.size_bytes
        offset = size
        while offset > 0:
            length = min(CHUNK_SIZE_BYTES, offset)
            newline = os.pread(self.descriptor, length, offset - length).rfind(b"\n")
            if newline >= 0:
                offset += newline + 1 - length
                break
            offset -= length
        self.head = os.pread(self.descriptor, min(HEAD_SIZE_BYTES, offset), 0)
        self.lines = self._lines_from(offset)

    def read(self) -> Found:
        """Read the next chunk into ``lines``.

        The head is the same before and after, so what was read in between belongs to it: a file that is truncated
        and written anew at that moment is not mistaken for the old one.
        """
        status = os.fstat(self.descriptor)
        size = status.st_size
        self._changed_ns = status.st_mtime_ns
        if size < self._position:
            return Found.TRUNCATED
        if size == self._position:
            same = os.pread(self.descriptor, len(self.head), 0) == self.head
            return Found.END if same else Found.TRUNCATED
        head = self.head
        if len(head) < HEAD_SIZE_BYTES:
            head = os.pread(self.descriptor, HEAD_SIZE_BYTES, 0)
        size = self.lines.read_from(self.descriptor)
        if (
            not head  # it is not empty
            or not head.startswith(self.head)
            or os.pread(self.descriptor, len(head), 0) != head
        ):
            return Found.TRUNCATED
        self.head = head
        self._position += size
        return Found.DATA if size else Found.END

    def end_half_line(self) -> None:
        """Make what is left a line, though it has no end."""
        self.lines.finish()
        self.is_ended = True

    def begin_new_line(self) -> None:
        """Go on behind what `end_half_line` made a line."""
        self.lines = self._lines_from(self.offset)

    def restart(self) -> None:
        """Read from the beginning: it was truncated."""
        self.head = b""
        self.is_dirty = True
        self.lines = self._lines_from(0)

    def close(self) -> None:
        os.close(self.descriptor)
