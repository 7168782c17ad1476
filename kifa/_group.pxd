from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kifa._memtables cimport Memtables
from kifa._platform cimport pthread_cond_t, pthread_mutex_t
from kifa._waiters cimport Waiter

cdef struct Group:
    uint8_t *buffer
    bint has_large_pages
    size_t size             # bytes framed
    size_t last_record      # offset of the record that will get GROUP_END
    uint32_t entries
    uint32_t records
    uint32_t committers     # threads that wait for it
    uint64_t serial         # groups are numbered in the order they are written
    uint64_t last_lsn
    int descriptor
    uint64_t offset         # where in the segment it goes
    double written_at       # monotonic seconds when its write began


cdef enum Status:
    STATUS_OK = 0
    STATUS_GROUP_FULL
    STATUS_NEEDS_SEGMENT
    STATUS_NEEDS_FLUSH
    STATUS_ROTATING
    STATUS_POISONED
    STATUS_NO_MEMORY
    STATUS_NO_SPACE
    STATUS_STOPPED


cdef enum:
    NORMAL_PENDING_LIMIT = 50
    # A source checkpoint is bounded; `held` groups keep room for one.
    CONTROL_MAX_SIZE = 8 * 1024


cdef class GroupCommit(Memtables):
    # The committer's own lock: who frames a batch holds `mutex` for long, and the group before it is written meanwhile.
    cdef pthread_mutex_t gate
    cdef pthread_cond_t committer_work
    cdef bint committer_called
    cdef bint sealed                    # the group in flight waits for the committer to write it; set with both locks
    cdef pthread_cond_t gathered        # all who were returning are back
    cdef Waiter waiting[2]              # for their group, by the parity of its serial
    cdef Waiter released                # their group is durable; each who wakes up wakes the next
    cdef int fork_generation
    # The segment that the open group goes to.
    cdef int descriptor
    cdef uint64_t segment_size
    cdef bint segment_ready
    cdef bint half_full
    cdef size_t needed_size             # of the record that last did not fit
    # Groups.
    cdef Group groups[2]
    cdef int open_index
    cdef bint in_flight
    cdef bint in_batch                  # one thread frames a batch; others wait
    cdef bint held                      # a control record must come before the open group may close
    cdef uint64_t synced_serial
    cdef uint64_t requested_serial
    cdef uint32_t returning             # threads whose entry became durable and who were not seen since
    cdef double sync_seconds            # what the last one took
    cdef double oldest_pending          # monotonic seconds when the open group got its first record
    # Log position.
    cdef int poison
    cdef long long clock_offset_ms
    cdef bint clock_known
    # Bounds and policy.
    cdef size_t max_group_size
    cdef uint32_t max_group_entries
    cdef uint32_t pending_limit         # 0: each group is synced before its acks; else normal mode's 50
    cdef bint stopping
    cdef bint committer_running
    cdef bint committer_stop

    cdef int frame(
        self, const uint8_t *data, uint32_t length, uint8_t type, uint64_t timestamp_ms, size_t reserve
    ) noexcept nogil
    cdef int open_group(self, uint64_t timestamp_ms) noexcept nogil
    cdef void add_record(
        self, Group *group, const uint8_t *data, uint32_t length, uint8_t type, uint64_t timestamp_ms
    ) noexcept nogil
    cdef void seal(self) noexcept nogil
    cdef int write_in_flight(self) noexcept nogil
    cdef void publish(self, int error) noexcept nogil
    cdef void call_committer(self) noexcept nogil
    cdef void free_unused(self) noexcept nogil
    cdef void lead(self) noexcept nogil
    cdef void refuse_all(self, int error) noexcept nogil
    cdef void wait_in(self, Waiter *ring) noexcept nogil
    cdef int commit_through(self, uint64_t serial) noexcept nogil
    cdef void gather(self) noexcept nogil
    cdef int make_room(self, int status) noexcept nogil
    cdef int hand_over(self) noexcept nogil
    cdef uint64_t last_framed_serial(self) noexcept nogil
    cdef int fail(self, int status) except -1
    cdef int check_fork(self) except -1
