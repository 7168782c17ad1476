from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef struct Pending:
    uint64_t first_lsn
    uint64_t count          # 0: a refusal, whose text is the next of `refusals`


cdef class Answers


cdef class AnswerQueue:
    cdef void **due                 # Answers with something pending; NULL where one was forgotten
    cdef size_t due_count
    cdef size_t due_capacity
    # Senders that were told all and are expected back with their next line.
    cdef uint32_t expected
    cdef uint64_t round
    cdef uint64_t given_up          # who was expected in this round or before is late
    cdef double answered_at         # monotonic seconds

    cdef bint add(self, Answers answers) noexcept nogil
    cdef void tell_all(self, uint64_t durable_lsn) noexcept nogil
    cdef bint tell(self, Answers answers, uint64_t durable_lsn) noexcept nogil
    cdef void expect(self, Answers answers) noexcept nogil
    cdef void came_back(self, Answers answers) noexcept nogil
    cdef void give_up(self) noexcept nogil
    cdef void keep(self, Answers answers) noexcept nogil


cdef class Answers:
    cdef AnswerQueue queue
    cdef readonly object send
    cdef int descriptor             # where they go to; -1: `send` does it
    cdef bint is_socket
    cdef Pending *pending
    cdef size_t start
    cdef size_t end
    cdef size_t capacity
    cdef object refusals
    cdef uint8_t *unsent            # what the socket did not take
    cdef size_t unsent_size
    cdef bint is_out_of_memory      # and something that was unsent is lost
    cdef bint is_due
    cdef size_t due_index
    cdef bint needs_send
    cdef uint64_t expected_in       # the round after which it is expected back; 0: it is not
    cdef uint32_t lateness
    cdef uint32_t doubts            # rounds in which it will not be expected

    cdef bint note(self, uint64_t first_lsn, uint64_t count) noexcept nogil
    cdef size_t format_ready(self, uint64_t durable_lsn, uint8_t *out, size_t size) noexcept nogil
    cdef bint send_ready(self, uint64_t durable_lsn) noexcept nogil
    cdef ssize_t give(self, const uint8_t *data, size_t size) noexcept nogil
    cdef bytes take_unsent(self)
