from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kifa._committer cimport Committer
from kifa._lines cimport LineBuffer


cdef struct Slice:
    const uint8_t *data
    uint32_t length


cdef class SliceBatch:
    cdef Slice *slices
    cdef Py_ssize_t capacity
    cdef Py_ssize_t count
    cdef size_t size            # of their records
    cdef object fill(self, list items, Py_ssize_t start)


cdef class LogWriter(Committer):
    cdef SliceBatch batch       # of the thread that has begun a `Batch`
    cdef void await_batch(self) noexcept nogil
    cdef int frame_available(
        self, LineBuffer lines, bint hold, uint64_t *first_lsn, uint64_t *count, int *reason
    ) noexcept nogil
    cdef int frame_slices(self, SliceBatch batch, Py_ssize_t *framed) noexcept nogil
