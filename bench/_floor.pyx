"""The floor: the bare system calls of a shape, in C loops. Nothing can be faster on this disk."""

import os

from libc.stdint cimport uint8_t
from libc.stdlib cimport free
from libc.string cimport memset
from posix.stdlib cimport posix_memalign
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport fdatasync, pwrite, read

cdef enum:
    ALIGNMENT = 4096
    MIN_FILE_SIZE = 16 * 1024 * 1024
    COPY_SIZE = 1024 * 1024


cdef double now() noexcept nogil:
    cdef timespec moment
    clock_gettime(CLOCK_MONOTONIC, &moment)
    return <double>moment.tv_sec + 1e-9 * <double>moment.tv_nsec


cdef size_t whole_blocks(size_t size_bytes) noexcept nogil:
    return (size_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


cdef class FloorFile:
    """A file whose blocks were all written once, open with O_DIRECT where the file system knows it."""

    cdef uint8_t *buffer
    cdef int descriptor
    cdef size_t file_size
    cdef size_t offset
    cdef object path
    cdef readonly bint is_direct

    def __init__(self, path: str, size_t largest_write_bytes=COPY_SIZE):
        """Prepare the file ``path`` for writes of at most ``largest_write_bytes``. It is gone after `close`.

        Raises:
            OSError: it cannot be created or written.
        """
        self.path = path
        self.file_size = max(<size_t>MIN_FILE_SIZE, 2 * whole_blocks(largest_write_bytes))
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        if posix_memalign(<void **>&self.buffer, ALIGNMENT, self.file_size):
            raise MemoryError()
        memset(self.buffer, 1, self.file_size)
        try:
            self.descriptor = os.open(path, flags | os.O_DIRECT, 0o644)
            self.is_direct = True
        except OSError:
            self.descriptor = os.open(path, flags, 0o644)
        view = memoryview(<uint8_t[:self.file_size]>self.buffer)
        written = 0
        while written < self.file_size:
            written += os.pwrite(self.descriptor, view[written:], written)
        os.fsync(self.descriptor)

    def __cinit__(self):
        self.descriptor = -1

    def __dealloc__(self):
        free(self.buffer)

    def write(self, size_t size_bytes, int count):
        """Write ``count`` times ``size_bytes``, padded to whole blocks, each synced.

        Returns:
            The seconds that each write with its sync took.

        Raises:
            OSError: a call failed.
        """
        cdef size_t padded = whole_blocks(size_bytes)
        cdef int index
        cdef double started, ended
        cdef bint failed = False
        assert 0 < padded <= self.file_size
        seconds = [0.0] * count
        for index in range(count):
            if self.offset + padded > self.file_size:
                self.offset = 0
            with nogil:
                started = now()
                failed = pwrite(self.descriptor, self.buffer, padded, self.offset) != <ssize_t>padded
                failed = fdatasync(self.descriptor) != 0 or failed
                ended = now()
            if failed:
                raise OSError(f"{self.path}: a durable write failed")
            seconds[index] = ended - started
            self.offset += padded
        return seconds

    def copy_from(self, int source):
        """Read ``source`` to its end and write it in durable pieces of 1 MiB; return the count of bytes.

        Raises:
            OSError: a call failed.
        """
        cdef size_t total = 0, filled = COPY_SIZE, padded
        cdef ssize_t got
        cdef bint failed = False
        while filled == COPY_SIZE:
            with nogil:
                filled = 0
                while filled < COPY_SIZE:
                    got = read(source, self.buffer + filled, COPY_SIZE - filled)
                    if got <= 0:
                        failed = got < 0
                        break
                    filled += got
                padded = whole_blocks(filled)
                if self.offset + padded > self.file_size:
                    self.offset = 0
                if padded and not failed:
                    failed = pwrite(self.descriptor, self.buffer, padded, self.offset) != <ssize_t>padded
                    failed = fdatasync(self.descriptor) != 0 or failed
            if failed:
                raise OSError(f"{self.path}: a read or a durable write failed")
            self.offset += padded
            total += filled
        return total

    def close(self):
        """Close and remove the file. Idempotent."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
            os.unlink(self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
