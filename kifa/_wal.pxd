from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kifa._group cimport GroupCommit
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


cdef class LogWriter(GroupCommit):
    cdef int event_descriptor           # of who is told what the committer has done

    cdef SliceBatch batch       # of the thread between `begin_batch` and `end_batch`
    cdef bint await_call(self, double deadline) noexcept nogil
    cdef double lead_due(self) noexcept nogil
    cdef void await_batch(self) noexcept nogil
    cdef int frame_available(
        self, LineBuffer lines, bint hold, uint64_t *first_lsn, uint64_t *count, int *reason
    ) noexcept nogil
    cdef int frame_slices(self, SliceBatch batch, Py_ssize_t *framed) noexcept nogil
    cdef void notify(self) noexcept nogil
