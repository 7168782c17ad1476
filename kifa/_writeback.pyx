"""Writing dirty pages back early, so that one large fsync at the end does not hold up the log's small ones."""

from libc.stdint cimport int64_t

cdef extern from *:
    """
    #include <fcntl.h>
    #ifdef __linux__
    static int kifa_sync_range(int descriptor, int64_t offset, int64_t size, int wait) {
        unsigned flags = SYNC_FILE_RANGE_WRITE;
        if (wait) flags |= SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WAIT_AFTER;
        return sync_file_range(descriptor, offset, size, flags);
    }
    #else
    static int kifa_sync_range(int descriptor, int64_t offset, int64_t size, int wait) { return 0; }
    #endif
    """
    int sync_range "kifa_sync_range"(int descriptor, int64_t offset, int64_t size, int wait) noexcept nogil


def write_back(int descriptor, int64_t offset, int64_t size, bint wait):
    """Start writing the range (in bytes) to the device; with ``wait``, return when it has been written.

    A hint: no promise of durability, and nothing at all where the system has no such call or the file system refuses.
    """
    if size == 0:
        return  # to the system it means: up to the end of the file
    with nogil:
        sync_range(descriptor, offset, size, wait)
