"""The committer: a thread that makes full, requested and old groups durable while others go on framing.

    frame (full group) -> hand_over: seal, gate -> committer: write, sync, publish
    `request_commit`, 100 ms in normal mode ------> committer: lead

Without it, and for whoever waits for an entry of its own, a thread that waits leads: see `kifa._group`, which also says
what is on disk between the steps.
"""

from libc.stdint cimport uint64_t

from kifa._group cimport NORMAL_PENDING_LIMIT, Group, GroupCommit
from kifa._platform cimport (
    cond_wait_until, monotonic, pthread_cond_broadcast, pthread_cond_wait, pthread_mutex_lock, pthread_mutex_unlock, write,
)

# In normal mode.
cdef double normal_max_delay = 0.1


cdef class Committer(GroupCommit):
    """Groups, and the thread that commits them where there is one."""

    def __cinit__(self):
        self.event_descriptor = -1

    def request_commit(self):
        """Have the committer make durable what is framed so far; do not wait."""
        self.check_fork()
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.requested_serial = self.last_framed_serial()
            self.call_committer()
            pthread_mutex_unlock(&self.mutex)

    def notify_on(self, int event_descriptor):
        """Add 1 to this eventfd whenever the committer made a group durable, or could not; -1 stops it."""
        pthread_mutex_lock(&self.mutex)
        self.event_descriptor = event_descriptor
        pthread_mutex_unlock(&self.mutex)

    @property
    def has_committer(self) -> bool:
        return self.committer_running

    def run_committer(self):
        """Commit full and requested groups, and in normal mode old ones, until `stop` or a failed sync.

        This is the body of a thread; it returns at once where another one runs.
        """
        cdef double deadline = 0.0
        cdef bint ended = False
        cdef bint given
        cdef int error = 0
        with nogil:
            pthread_mutex_lock(&self.mutex)
            ended = self.committer_running
            self.committer_running = True
            pthread_mutex_unlock(&self.mutex)
            while not ended:
                given = self.await_call(deadline)
                if given:
                    error = self.write_in_flight()
                pthread_mutex_lock(&self.mutex)
                if given:
                    self.publish(error)
                    self.notify()
                deadline = self.lead_due()
                ended = self.poison != 0 or (self.committer_stop and not self.sealed)
                if ended:
                    self.committer_running = False
                    pthread_cond_broadcast(&self.room)
                pthread_mutex_unlock(&self.mutex)

    cdef bint await_call(self, double deadline) noexcept nogil:
        # Returns when the committer is called, or at the deadline unless that is 0; whether it got a sealed group.
        cdef bint given
        pthread_mutex_lock(&self.gate)
        while not self.committer_called and not self.sealed:
            if deadline == 0.0:
                pthread_cond_wait(&self.committer_work, &self.gate)
            elif monotonic() < deadline:
                cond_wait_until(&self.committer_work, &self.gate, deadline)
            else:
                break
        self.committer_called = False
        given = self.sealed
        self.sealed = False
        pthread_mutex_unlock(&self.gate)
        return given

    cdef double lead_due(self) noexcept nogil:
        # Leads the groups that were asked for, and old ones in normal mode; returns when the next will be old, or 0.
        # With the mutex.
        cdef Group *group = &self.groups[self.open_index]
        cdef double deadline
        while group.records and not self.in_flight and not self.held and not self.poison:
            if self.requested_serial < group.serial:
                if not self.pending_limit:
                    break
                deadline = self.oldest_pending + normal_max_delay
                if monotonic() < deadline:
                    return deadline
            self.lead()
            self.notify()
            group = &self.groups[self.open_index]
        return 0.0

    cdef void notify(self) noexcept nogil:
        # With the mutex.
        cdef uint64_t one = 1
        if self.event_descriptor >= 0:
            write(self.event_descriptor, &one, sizeof(one))

    def stop_committer(self):
        """Let `run_committer` return."""
        pthread_mutex_lock(&self.mutex)
        self.committer_stop = True
        self.call_committer()
        pthread_mutex_unlock(&self.mutex)

    def set_normal(self, bint normal):
        """Change to or from the sync policy of normal mode."""
        self.check_fork()
        pthread_mutex_lock(&self.mutex)
        self.pending_limit = NORMAL_PENDING_LIMIT if normal else 0
        self.oldest_pending = monotonic()
        if not normal:
            self.requested_serial = self.last_framed_serial()  # nobody waits for it, and it is no longer old enough
        self.call_committer()
        pthread_mutex_unlock(&self.mutex)
