"""Octet-counting framing (RFC 6587, 3.4.1): ``<length> <message>``, over and over."""

from __future__ import annotations

import os

from kifa._answers import Answers
from kifa.ingest import Ingest

CHUNK_SIZE_BYTES = 64 * 1024
MAX_LENGTH_DIGITS = 10


class OctetStream:
    """What was read of one stream and not yet stored; the interface of `kifa._lines.LineBuffer`."""

    def __init__(self, max_message_size_bytes: int) -> None:
        self._max_size = max_message_size_bytes
        self._data = bytearray()
        self._skip = 0
        self._finished = False
        self.is_broken = False
        """Whether no message can be found in the stream any more."""

    def read_from(self, descriptor: int) -> int:
        """Read one chunk; 0 at the end of the stream."""
        chunk = os.read(descriptor, CHUNK_SIZE_BYTES)
        self.feed(chunk)
        return len(chunk)

    def feed(self, data: bytes) -> None:
        """Append ``data`` as if it had been read."""
        if not self.is_broken:
            self._data += data

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait for the rest of their message."""
        return len(self._data)

    def finish(self) -> None:
        """Say that nothing more comes."""
        self._finished = True

    def store(self, ingest: Ingest, answers: Answers | None, name: str) -> bool:
        """Store all whole messages; as `Ingest.store_lines`."""
        position = 0
        data = self._data
        try:
            while not self.is_broken:
                if self._skip:
                    skipped = min(self._skip, len(data) - position)
                    self._skip -= skipped
                    position += skipped
                    if self._skip:
                        break
                space = data.find(b" ", position, position + MAX_LENGTH_DIGITS + 1)
                digits = bytes(
                    data[position : position + MAX_LENGTH_DIGITS]
                    if space < 0
                    else data[position:space]
                )
                if (
                    (digits and not digits.isdigit())
                    or (space < 0 and len(digits) == MAX_LENGTH_DIGITS)
                    or space == position
                ):
                    self.is_broken = True
                    ingest.refuse("no octet count where one must be", answers, name)
                    position = len(data)
                    break
                if space < 0:
                    break
                size = int(digits)
                if size > self._max_size:
                    ingest.refuse(f"message of {size} bytes is too long", answers, name)
                    self._skip = size
                    position = space + 1
                    continue
                end = space + 1 + size
                if end > len(data):
                    break
                if not ingest.store_entry(bytes(data[space + 1 : end]), answers, name):
                    return False
                position = end
        finally:
            del data[:position]
        if self._finished and data:
            ingest.refuse(
                f"the stream ends within a message ({len(data)} bytes of it)", answers, name
            )
            data.clear()
        return True

    def refuse(self) -> int:
        """Throw away what is left and return how many messages began in it, at least."""
        left = int(bool(self._data))
        self._data.clear()
        return left
