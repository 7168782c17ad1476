from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t


cdef class SegmentWindow:
    cdef int descriptor
    cdef uint64_t salt
    cdef uint64_t size          # bytes that can be read
    cdef uint64_t position
    cdef uint8_t *window
    cdef uint64_t window_start
    cdef size_t window_size
    cdef size_t read_size       # how much is read at once
    cdef object chunks          # what somebody reads ahead, in order, or None
    cdef object failure         # what `chunks` raised, until somebody is told
    cdef const uint8_t[::1] chunk
    cdef size_t chunk_used
    cdef uint64_t chunks_offset # where what is left of `chunks` belongs
    cdef bint keeps             # the run that is being walked, from `kept_start` on

    cdef int have_window(self) except -1
    cdef void let_go(self) noexcept
    cdef void read_ahead(self, object chunks, uint64_t offset) noexcept
    cdef const uint8_t *at(self, uint64_t offset, size_t wanted, size_t *available) noexcept nogil
    cdef int fail(self) except -1
    cdef uint64_t kept_start(self) noexcept nogil
    cdef ssize_t read_on(self, uint8_t *out, size_t size, uint64_t offset) noexcept nogil
    cdef ssize_t next_of_chunks(self, uint8_t *out, size_t size) noexcept with gil


cdef inline const uint8_t *bytes_at(
    SegmentWindow window, uint64_t offset, size_t wanted, size_t *available
) noexcept nogil:
    # As `at`, without the call where the window has them.
    cdef uint64_t end = window.window_start + window.window_size
    if window.window_start <= offset and offset + wanted <= end:
        available[0] = <size_t>(end - offset)
        return window.window + (offset - window.window_start)
    return window.at(offset, wanted, available)
