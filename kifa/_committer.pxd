from kifa._group cimport GroupCommit


cdef class Committer(GroupCommit):
    cdef int event_descriptor   # of who is told what the committer has done

    cdef bint await_call(self, double deadline) noexcept nogil
    cdef double lead_due(self) noexcept nogil
    cdef void notify(self) noexcept nogil
