from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t


cdef enum LineState:
    LINE_FOUND
    LINE_NONE       # more bytes are needed
    LINE_OVERSIZE   # a whole line that is too long went by; `oversize` is its size


cdef class LineBuffer:
    cdef uint8_t *data
    cdef size_t capacity
    cdef size_t start        # first byte not yet taken
    cdef size_t scanned      # no line end before this
    cdef size_t end
    cdef size_t max_line_size
    cdef size_t chunk_size
    cdef bint discarding
    cdef bint finished
    cdef uint64_t discarded
    cdef uint64_t oversize
    cdef uint64_t consumed   # bytes of the stream taken so far, line ends included

    cdef LineState peek(self, const uint8_t **line, size_t *length, size_t *advance) noexcept nogil
    cdef void take(self, size_t advance) noexcept nogil
    cdef ssize_t read_chunk(self, int descriptor) noexcept nogil
    cdef bint make_room(self, size_t size) noexcept nogil
