"""A byte stream cut into lines, in C, whatever pieces it arrives in, with bounded memory."""

import os

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, ENOMEM, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcpy, memmove

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *buffer, size_t size)


cdef class LineBuffer:
    """Holds what was read of one stream and not yet framed: at most one line of the maximum size and one chunk.

    A line ends with ``\\n`` or ``\\r\\n``, which are not part of it. A longer line than allowed is counted and thrown
    away as it streams by, so that it costs neither memory nor the lines behind it.
    """

    def __cinit__(self, size_t max_line_size_bytes=1 << 20, size_t chunk_size_bytes=1 << 20):
        self.max_line_size = max_line_size_bytes
        self.chunk_size = chunk_size_bytes

    def __dealloc__(self):
        free(self.data)

    @property
    def consumed_bytes(self) -> int:
        """Bytes of the stream up to the end of the last whole line taken or refused, line ends included."""
        return self.consumed - self.discarded

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait for their line end or to be framed."""
        return self.end - self.start

    @property
    def is_discarding(self) -> bool:
        """Whether the stream is inside a line that is too long."""
        return self.discarding

    def read_from(self, int descriptor):
        """Read one chunk from ``descriptor`` and return its size; 0 at the end of the stream.

        Raises:
            OSError: as ``os.read``, BlockingIOError included; nothing was read then.
        """
        cdef ssize_t got
        while True:
            with nogil:
                got = self.read_chunk(descriptor)
            if got >= 0:
                return got
            if got == -ENOMEM:
                raise MemoryError()
            if got != -EINTR:
                raise OSError(-got, os.strerror(-got))
            # An interrupted read gives Python's signal handlers their turn.
            PyErr_CheckSignals()

    cdef ssize_t read_chunk(self, int descriptor) noexcept nogil:
        # Returns how much came, 0 at the end of the stream, or what failed as a negative errno.
        cdef ssize_t got
        if not self.make_room(self.chunk_size):
            return -ENOMEM
        got = read(descriptor, self.data + self.end, self.chunk_size)
        if got < 0:
            return -errno
        self.end += <size_t>got
        return got

    def feed(self, const uint8_t[::1] data not None):
        """Append ``data`` as if it had been read."""
        cdef size_t size = <size_t>data.shape[0]
        if size:
            if not self.make_room(size):
                raise MemoryError()
            memcpy(self.data + self.end, &data[0], size)
            self.end += size

    def refuse(self):
        """Take all whole lines out, unframed, and return their number. A line that is too long counts too."""
        cdef const uint8_t *line = NULL
        cdef size_t length = 0
        cdef size_t advance = 0
        cdef size_t count = 0
        cdef LineState state
        while True:
            state = self.peek(&line, &length, &advance)
            if state == LINE_NONE:
                return count
            if state == LINE_FOUND:
                self.take(advance)
            count += 1

    def finish(self):
        """Say that nothing more comes: a last line without a line end is a line."""
        self.finished = True

    cdef bint make_room(self, size_t size) noexcept nogil:
        cdef size_t larger
        cdef void *moved
        if self.capacity - self.end >= size:
            return True
        if self.start:
            memmove(self.data, self.data + self.start, self.end - self.start)
            self.end -= self.start
            self.scanned -= self.start
            self.start = 0
        if self.capacity - self.end < size:
            larger = self.end + size
            moved = realloc(self.data, larger)
            if moved == NULL:
                return False
            self.data = <uint8_t *>moved
            self.capacity = larger
        return True

    cdef LineState peek(self, const uint8_t **line, size_t *length, size_t *advance) noexcept nogil:
        # The next line, without taking it. An oversize line is taken.
        cdef const uint8_t *newline = NULL
        cdef size_t size
        if self.scanned < self.end:
            newline = <const uint8_t *>memchr(self.data + self.scanned, 10, self.end - self.scanned)
        if newline == NULL:
            self.scanned = self.end
            if self.finished and (self.end > self.start or self.discarding):
                size = self.end - self.start
                advance[0] = size
            else:
                # One byte more than a line may have: the \r of its end.
                if self.discarding or self.end - self.start > self.max_line_size + 1:
                    self.discarding = True
                    self.discarded += self.end - self.start
                    self.take(self.end - self.start)
                return LINE_NONE
        else:
            size = <size_t>(newline - self.data) - self.start
            advance[0] = size + 1
            if size and not self.discarding and newline[-1] == 13:
                size -= 1
        if self.discarding or size > self.max_line_size:
            self.oversize = self.discarded + size
            self.discarding = False
            self.discarded = 0
            self.take(advance[0])
            return LINE_OVERSIZE
        line[0] = self.data + self.start
        length[0] = size
        return LINE_FOUND

    cdef void take(self, size_t advance) noexcept nogil:
        self.start += advance
        self.consumed += advance
        if self.start == self.end:
            self.start = self.end = 0
        self.scanned = self.start


