"""File content: what the disk holds (`Base`), and what programs see before a sync (`View`)."""

from __future__ import annotations

from typing import Protocol

from lazyfs.ops import Allocate, DataOp, Truncate, Write, Zero

PAGE_BYTES = 4096
_ZERO_PAGE = bytes(PAGE_BYTES)
# Zeros are written to a base in pieces of this size, so that a huge range needs no huge buffer.
_ZERO_CHUNK_BYTES = 1 << 20


class Base(Protocol):
    """The synced content of one file."""

    @property
    def size(self) -> int:
        """Size in bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """At most `length` bytes from `offset`; fewer at the end of the file."""

    def write(self, offset: int, data: bytes) -> None:
        """Store `data`, extending the file with zeros where needed."""

    def truncate(self, size: int) -> None:
        """Cut or extend with zeros."""


class MemoryBase:
    """Synced content in memory: for the model without a mount."""

    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def size(self) -> int:
        """Size in bytes."""
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """See `Base.read`."""
        return bytes(self._data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """See `Base.write`."""
        end = offset + len(data)
        if offset > len(self._data):
            self.truncate(offset)
        self._data[offset:end] = data

    def truncate(self, size: int) -> None:
        """See `Base.truncate`."""
        if size < len(self._data):
            del self._data[size:]
        else:
            self._data.extend(bytes(size - len(self._data)))


def apply_to_base(base: Base, op: DataOp) -> None:
    """Make the content part of one pending operation part of the synced content."""
    if isinstance(op, Write):
        base.write(op.offset, op.data)
    elif isinstance(op, Truncate):
        base.truncate(op.size)
    elif isinstance(op, Allocate):
        if op.offset + op.length > base.size:
            base.truncate(op.offset + op.length)
    elif isinstance(op, Zero):
        _zero_base(base, op)


def _zero_base(base: Base, op: Zero) -> None:
    end = op.offset + op.length
    old_size = base.size
    if op.extend and end > old_size:
        base.truncate(end)
    position, stop = op.offset, min(end, old_size)
    while position < stop:
        count = min(_ZERO_CHUNK_BYTES, stop - position)
        base.write(position, bytes(count))
        position += count


class View:
    """Current content: pages changed since the last sync, over a part of the base.

    Below `base_limit` a page that was not changed reads from the base, above it as zeros.
    Costs are per page touched, never per size of the file.
    """

    __slots__ = ("base_limit", "pages", "size")

    def __init__(self, size: int = 0) -> None:
        self.pages: dict[int, bytes | bytearray] = {}
        self.size = size
        self.base_limit = size

    def reset(self, size: int) -> None:
        """Everything is synced: the view is the base, `size` bytes of it."""
        self.pages.clear()
        self.size = self.base_limit = size

    def read(self, base: Base | None, offset: int, length: int) -> bytes:
        """At most `length` bytes at `offset` as a program sees them."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        if not self.pages:
            return self._read_base(base, offset, length)
        first, last = offset // PAGE_BYTES, (offset + length - 1) // PAGE_BYTES
        if first == last:
            start = offset - first * PAGE_BYTES
            return bytes(self._page(base, first)[start : start + length])
        joined = bytearray(
            self._read_base(base, first * PAGE_BYTES, (last - first + 1) * PAGE_BYTES)
        )
        for index in range(first, last + 1):
            page = self.pages.get(index)
            if page is not None:
                start = (index - first) * PAGE_BYTES
                joined[start : start + PAGE_BYTES] = page
        start = offset - first * PAGE_BYTES
        return bytes(joined[start : start + length])

    def apply(self, base: Base | None, op: DataOp) -> None:
        """Show the effect of one operation on the content."""
        if isinstance(op, Write):
            self._write(base, op.offset, op.data)
        elif isinstance(op, Truncate):
            self._truncate(base, op.size)
        elif isinstance(op, Allocate):
            self.size = max(self.size, op.offset + op.length)
        elif isinstance(op, Zero):
            self._zero(base, op.offset, op.length)
            if op.extend:
                self.size = max(self.size, op.offset + op.length)

    def _read_base(self, base: Base | None, offset: int, length: int) -> bytes:
        from_base = min(length, self.base_limit - offset)
        if base is None or from_base <= 0:
            return bytes(length)
        data = base.read(offset, from_base)
        return data if len(data) == length else data.ljust(length, b"\0")

    def _page(self, base: Base | None, index: int) -> bytes | bytearray:
        page = self.pages.get(index)
        if page is not None:
            return page
        return self._read_base(base, index * PAGE_BYTES, PAGE_BYTES)

    def _writable_page(self, base: Base | None, index: int) -> bytearray:
        page = self._page(base, index)
        if not isinstance(page, bytearray):
            page = self.pages[index] = bytearray(page)
        return page

    def _write(self, base: Base | None, offset: int, data: bytes) -> None:
        end = offset + len(data)
        position = offset
        while position < end:
            index, start = divmod(position, PAGE_BYTES)
            count = min(PAGE_BYTES - start, end - position)
            piece = data[position - offset : position - offset + count]
            if count == PAGE_BYTES:
                self.pages[index] = piece
            else:
                self._writable_page(base, index)[start : start + count] = piece
            position += count
        if end > self.size:
            self.size = end

    def _truncate(self, base: Base | None, size: int) -> None:
        if size < self.size:
            index, start = divmod(size, PAGE_BYTES)
            if start and index in self.pages:
                self._writable_page(base, index)[start:] = bytes(PAGE_BYTES - start)
            first_gone = index + 1 if start else index
            self._drop_pages(first_gone, None)
            self.base_limit = min(self.base_limit, size)
        self.size = size

    def _zero(self, base: Base | None, offset: int, length: int) -> None:
        end = min(offset + length, max(self.size, self.base_limit))
        if end <= offset:
            return
        first_whole, last_whole = -(-offset // PAGE_BYTES), end // PAGE_BYTES
        edges = {offset // PAGE_BYTES, (end - 1) // PAGE_BYTES}
        for index in edges:
            start = max(offset - index * PAGE_BYTES, 0)
            stop = min(end - index * PAGE_BYTES, PAGE_BYTES)
            self._writable_page(base, index)[start:stop] = bytes(stop - start)
        self._drop_pages(first_whole, last_whole, keep=edges)
        # Only the part that would read from the base needs pages of zeros.
        base_pages = -(-self.base_limit // PAGE_BYTES)
        for index in range(first_whole, min(last_whole, base_pages)):
            if index not in edges:
                self.pages[index] = _ZERO_PAGE

    def _drop_pages(
        self, first: int, stop: int | None, keep: set[int] | frozenset[int] = frozenset()
    ) -> None:
        if stop is None or stop - first > len(self.pages):
            gone = [i for i in self.pages if i >= first and (stop is None or i < stop)]
        else:
            gone = [i for i in range(first, stop) if i in self.pages]
        for index in gone:
            if index not in keep:
                del self.pages[index]
