from libc.stdint cimport uint64_t

from kifa._group cimport GroupCommit
from kifa._lines cimport LineBuffer


cdef class LogWriter(GroupCommit):
    cdef void await_batch(self) noexcept nogil
    cdef int frame_available(
        self, LineBuffer lines, bint hold, uint64_t *first_lsn, uint64_t *count, int *reason
    ) noexcept nogil
    cdef void free_spares(self) noexcept nogil
