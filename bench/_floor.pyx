"""The floor: the bare system calls of a durable write, in a C loop. Nothing can be faster on this disk."""

import os

from libc.stdlib cimport free
from libc.string cimport memset
from posix.stdlib cimport posix_memalign
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport fdatasync, pwrite

cdef enum:
    ALIGNMENT = 4096
    FILE_SIZE = 16 * 1024 * 1024


cdef double now() noexcept nogil:
    cdef timespec moment
    clock_gettime(CLOCK_MONOTONIC, &moment)
    return <double>moment.tv_sec + 1e-9 * <double>moment.tv_nsec


def durable_writes(path: str, size_t size_bytes, int count):
    """Write ``count`` times ``size_bytes`` (a multiple of 4096) into written blocks of a 16 MiB file, each synced.

    Returns:
        The seconds that each write with its sync took, as a list.

    Raises:
        OSError: the file system refuses O_DIRECT, or a call failed.
    """
    cdef void *buffer = NULL
    cdef size_t offset = 0
    cdef int index
    cdef double started
    cdef bint failed = False
    assert size_bytes % ALIGNMENT == 0 and 0 < size_bytes <= FILE_SIZE
    if posix_memalign(&buffer, ALIGNMENT, FILE_SIZE):
        raise MemoryError()
    memset(buffer, 1, FILE_SIZE)
    cdef int descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o644)
    seconds = [0.0] * count
    try:
        if pwrite(descriptor, buffer, FILE_SIZE, 0) != FILE_SIZE or fdatasync(descriptor):
            raise OSError("cannot prepare the file")
        os.fsync(descriptor)
        for index in range(count):
            started = now()
            with nogil:
                failed = pwrite(descriptor, buffer, size_bytes, offset) != <ssize_t>size_bytes
                failed = fdatasync(descriptor) != 0 or failed
            if failed:
                raise OSError("a durable write failed")
            seconds[index] = now() - started
            offset += size_bytes
            if offset + size_bytes > FILE_SIZE:
                offset = 0
    finally:
        os.close(descriptor)
        os.unlink(path)
        free(buffer)
    return seconds
