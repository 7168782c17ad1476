from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from kifa._memtable cimport Arena
from kifa._platform cimport pthread_cond_t, pthread_mutex_t


cdef enum:
    MAX_FROZEN = 4          # memtables that wait for their flush; then writers wait
    MAX_FLUSHED = 2         # memtables of one flush: while those are written, the others are filled


cdef class Memtables:
    cdef pthread_mutex_t mutex
    cdef pthread_cond_t room            # the open group was handed over, or a memtable was flushed
    cdef pthread_cond_t background_work
    cdef uint64_t next_lsn
    cdef uint64_t durable
    # The segment that groups go to, and where the next one begins.
    cdef uint64_t salt
    cdef uint64_t segment_offset
    cdef size_t memtable_threshold
    cdef Arena *active
    cdef Arena *frozen[MAX_FROZEN]
    cdef int frozen_count
    cdef Arena *spares[MAX_FROZEN]      # arenas to fill again: memory that was never touched is dear
    cdef int spare_count
    cdef bint freeze_requested
    cdef int flush_error
    cdef bint background_woken
    cdef bint keeps_memory              # that a load needed, for the next one

    cdef uint64_t oldest_unflushed(self) noexcept nogil
    cdef void freeze_active(self) noexcept nogil
    cdef int flushable_count(self) noexcept nogil
    cdef void free_unused(self) noexcept nogil
