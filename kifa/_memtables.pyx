"""The memtables of an open log: the active one, those that are frozen, and what the flush thread waits for.

An entry is in a memtable from its framing until a published table has it. A memtable is frozen between two groups, and
flushed when all its entries are durable. `kifa._group` adds groups to it; its mutex guards everything here too.
"""

from libc.stdint cimport uint64_t

from kifa._memtable cimport Arena, Memtable, arena_free, arena_last_lsn, arena_new, arena_reset
from kifa._platform cimport (
    cond_init, cond_wait_until, monotonic, pthread_cond_broadcast, pthread_cond_wait, pthread_mutex_init,
    pthread_mutex_lock, pthread_mutex_unlock, return_free_memory,
)

# How long memory that a load needed is kept for the next one: the first touch of a page costs more than filling it.
cdef double kept_seconds = 30.0


cdef class Memtables:
    """What is in memory of the log. `kifa._wal.LogWriter` is one."""

    def __cinit__(self):
        pthread_mutex_init(&self.mutex, NULL)
        cond_init(&self.room)
        cond_init(&self.background_work)
        self.active = arena_new()
        if self.active == NULL:
            raise MemoryError()

    def __dealloc__(self):
        cdef int index
        arena_free(self.active)
        for index in range(self.spare_count):
            arena_free(self.spares[index])
        for index in range(self.frozen_count):
            arena_free(self.frozen[index])

    @property
    def memtable_entries(self) -> int:
        """Entries that no table has yet."""
        cdef int index
        cdef size_t count
        pthread_mutex_lock(&self.mutex)
        count = self.active.count
        for index in range(self.frozen_count):
            count += self.frozen[index].count
        pthread_mutex_unlock(&self.mutex)
        return count

    @property
    def oldest_unflushed_lsn(self) -> int:
        """The lowest LSN that only the WAL has."""
        cdef uint64_t lsn
        pthread_mutex_lock(&self.mutex)
        lsn = self.oldest_unflushed()
        pthread_mutex_unlock(&self.mutex)
        return lsn

    cdef uint64_t oldest_unflushed(self) noexcept nogil:
        if self.frozen_count:
            return self.frozen[0].first_lsn
        return self.active.first_lsn if self.active.count else self.next_lsn

    def wait_for_flush(self, uint64_t lsn, double timeout_seconds):
        """Return when a table has every entry up to ``lsn``, or after the time."""
        cdef double deadline = monotonic() + timeout_seconds
        with nogil:
            pthread_mutex_lock(&self.mutex)
            while self.oldest_unflushed() <= lsn and monotonic() < deadline:
                cond_wait_until(&self.room, &self.mutex, deadline)
            pthread_mutex_unlock(&self.mutex)

    cdef void freeze_active(self) noexcept nogil:
        # With the mutex, between two groups.
        cdef Arena *fresh
        # Control records alone are hints (docs/FORMAT.md, "Record") and wait for the entries they will go with.
        if self.active.count == 0 or self.frozen_count == MAX_FROZEN:
            return
        if self.spare_count:
            self.spare_count -= 1
            fresh = self.spares[self.spare_count]
        else:
            fresh = arena_new()
        if fresh == NULL:
            return
        self.active.end_salt = self.salt
        self.active.end_offset = self.segment_offset
        self.frozen[self.frozen_count] = self.active
        self.frozen_count += 1
        self.active = fresh
        self.freeze_requested = False

    cdef int flushable_count(self) noexcept nogil:
        cdef int count = 0
        while count < min(self.frozen_count, <int>MAX_FLUSHED) and arena_last_lsn(self.frozen[count]) <= self.durable:
            count += 1
        return count

    def wake_background(self):
        """Make `wait_for_background_work` return."""
        pthread_mutex_lock(&self.mutex)
        self.background_woken = True
        pthread_cond_broadcast(&self.background_work)
        pthread_mutex_unlock(&self.mutex)

    def wait_for_background_work(self, double timeout_seconds=-1.0):
        """Return when a frozen memtable is durable and can be flushed, on `wake_background`, or after the time."""
        cdef double started = monotonic()
        with nogil:
            pthread_mutex_lock(&self.mutex)
            while not self.background_woken and not self.flushable_count():
                if timeout_seconds >= 0:
                    if monotonic() >= started + timeout_seconds:
                        break
                    cond_wait_until(&self.background_work, &self.mutex, started + timeout_seconds)
                elif self.keeps_memory:
                    cond_wait_until(&self.background_work, &self.mutex, started + kept_seconds)
                    if monotonic() >= started + kept_seconds:
                        self.free_unused()
                else:
                    pthread_cond_wait(&self.background_work, &self.mutex)
            self.background_woken = False
            pthread_mutex_unlock(&self.mutex)

    cdef void free_unused(self) noexcept nogil:
        # With the mutex.
        self.keeps_memory = False
        while self.spare_count:
            self.spare_count -= 1
            arena_free(self.spares[self.spare_count])
        return_free_memory()

    def flushable(self):
        """Return the frozen memtables whose entries are all durable, oldest first. Give them back by `release`."""
        cdef int index, count
        with nogil:
            pthread_mutex_lock(&self.mutex)
            count = self.flushable_count()
            pthread_mutex_unlock(&self.mutex)
        # Only `release` takes one away, and the same thread calls it.
        return [Memtable.borrow(self.frozen[index]) for index in range(count)]

    def release(self, int count):
        """Forget the ``count`` oldest frozen memtables: a published table has their entries."""
        cdef int index
        assert 0 <= count <= self.frozen_count and self.spare_count + self.frozen_count <= MAX_FROZEN
        with nogil:
            pthread_mutex_lock(&self.mutex)
            for index in range(count):
                arena_reset(self.frozen[index])
                self.spares[self.spare_count] = self.frozen[index]
                self.spare_count += 1
                self.keeps_memory = True
            for index in range(count, self.frozen_count):
                self.frozen[index - count] = self.frozen[index]
            self.frozen_count -= count
            self.flush_error = 0
            pthread_cond_broadcast(&self.room)
            pthread_mutex_unlock(&self.mutex)

    def flush_failed(self, int error):
        """Say that flushing failed with errno ``error``: writers that would wait for it get NoSpaceError instead.

        0 says that it works again.
        """
        pthread_mutex_lock(&self.mutex)
        self.flush_error = error
        pthread_cond_broadcast(&self.room)
        pthread_mutex_unlock(&self.mutex)
