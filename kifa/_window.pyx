"""The bytes of a segment that are in memory while it is scanned: a window that moves on."""

import os

from libc cimport errno as c_errno
from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove

from kifa._layout cimport BLOCK_SIZE, MAX_ENTRY_SIZE, SEGMENT_DATA_OFFSET

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void *buffer, size_t size, long offset)

cdef enum:
    # A record may start in the last byte of the window and be 1 MiB long; twice that keeps the moves cheap.
    WINDOW_SIZE = 2 * (MAX_ENTRY_SIZE + BLOCK_SIZE)


cdef class SegmentWindow:
    """Reads one open segment file of which the salt is known, here and there or on and on. Holds no lock."""

    def __cinit__(self, int descriptor, uint64_t salt, uint64_t size_bytes):
        self.descriptor = descriptor
        self.salt = salt
        self.size = size_bytes
        self.position = SEGMENT_DATA_OFFSET
        self.read_size = WINDOW_SIZE

    def __dealloc__(self):
        free(self.window)

    cdef int have_window(self) except -1:
        if self.window == NULL:
            self.window = <uint8_t *>malloc(WINDOW_SIZE)
            if self.window == NULL:
                raise MemoryError()
        self.window_size = 0  # what was read before may be of old
        return 0

    cdef void let_go(self) noexcept:
        # Gives the memory back: a reader may have many segments open.
        self.chunks = self.chunk = None
        free(self.window)
        self.window = NULL
        self.window_size = 0

    cdef void read_ahead(self, object chunks, uint64_t offset) noexcept:
        # From `offset` on, take what the iterator `chunks` gives, if it is one.
        self.chunks, self.chunk, self.chunks_offset = chunks, None, offset

    cdef const uint8_t *at(self, uint64_t offset, size_t wanted, size_t *available) noexcept nogil:
        # Bytes of the file at `offset`: at least `wanted` where the file has them. NULL on an error (errno).
        cdef uint64_t end = self.window_start + self.window_size
        cdef size_t have = <size_t>(end - offset) if self.window_start <= offset < end else 0
        cdef size_t fill = wanted if self.chunks is not None else max(wanted, self.read_size)
        cdef uint64_t kept = offset
        cdef ssize_t got
        if have < wanted and offset + have < self.size:
            if self.keeps and self.kept_start() >= self.window_start and offset <= end:
                kept = min(offset, self.kept_start())  # for `read_walked`
                if offset + wanted - kept > WINDOW_SIZE:
                    kept = offset
            have = <size_t>(end - kept) if self.window_start <= kept < end else 0
            if have:
                memmove(self.window, self.window + (kept - self.window_start), have)
            self.window_start = kept
            self.window_size = have
            fill = min(fill + <size_t>(offset - kept), <size_t>WINDOW_SIZE)
            while self.window_size < fill and kept + self.window_size < self.size:
                got = self.read_on(
                    self.window + self.window_size,
                    min((<size_t>WINDOW_SIZE if self.chunks is not None else fill) - self.window_size,
                        self.size - kept - self.window_size),
                    kept + self.window_size,
                )
                if got < 0:
                    if errno == EINTR:
                        continue
                    return NULL
                if got == 0:
                    self.size = kept + self.window_size
                self.window_size += <size_t>got
            have = <size_t>(kept + self.window_size - offset) if kept + self.window_size > offset else 0
        available[0] = have
        return self.window + (offset - self.window_start)

    cdef int fail(self) except -1:
        # Raises what kept bytes from being read: errno, or what `chunks` raised.
        cdef int error = errno
        failure, self.failure = self.failure, None
        raise failure or OSError(error, os.strerror(error))

    cdef uint64_t kept_start(self) noexcept nogil:
        # From where on what was read is to stay in the window, as far as it can, with `keeps`.
        return self.size

    cdef ssize_t read_on(self, uint8_t *out, size_t size, uint64_t offset) noexcept nogil:
        # As pread, which it is where nobody reads ahead what is wanted.
        cdef ssize_t got
        if self.chunks is not None:
            if offset == self.chunks_offset:
                got = self.next_of_chunks(out, size)
                if got != 0:
                    return got
            with gil:
                # Damage: it is read here and there. Or they have ended, which may be a short read: only pread knows.
                self.chunks = None
        return pread(self.descriptor, out, size, <long>offset)

    cdef ssize_t next_of_chunks(self, uint8_t *out, size_t size) noexcept with gil:
        try:
            if self.chunk is None or self.chunk_used == <size_t>self.chunk.shape[0]:
                self.chunk = next(self.chunks, None)
                self.chunk_used = 0
            if self.chunk is None or self.chunk.shape[0] == 0:
                return 0
        except BaseException as error:  # an interrupt too: it is no end of the file
            self.chunks, self.failure = None, error
            c_errno.errno = getattr(error, "errno", None) or EIO
            return -1
        size = min(size, <size_t>self.chunk.shape[0] - self.chunk_used)
        memcpy(out, &self.chunk[self.chunk_used], size)
        self.chunk_used += size
        self.chunks_offset += size
        return <ssize_t>size
