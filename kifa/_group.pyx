"""Group commit: frames records into the open group and makes groups durable, one at a time.

    append -> frame (open group, memtable) -> lead (seal, write, sync) -> durable LSN -> whoever waits

What is on disk if power goes between the steps of `lead`:

    seal | write | sync | publish durable LSN
    ^ nothing  ^ any sectors of one group: torn, so none of it counts  ^ the group; some know it  ^ everyone may know

Group n + 1 is framed into the other buffer while group n is written, and written after its sync returned. A sync that
fails poisons the writer: the state of the disk is unknown until recovery has read it.

Locking: `mutex` guards everything, but the group in flight, which is only its writer's. Nobody takes the GIL while
holding it, and every wait for it or for a condition is without the GIL, so the two cannot deadlock. Only the thread
that set `in_flight` writes, or the committer, to whom it gave the sealed group. `gate` is taken last, and held for
moments.
"""

import os

from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from kifa._layout cimport (
    BLOCK_SIZE, FLAG_GROUP_END, FLAG_GROUP_START, MAX_GROUP_SIZE, RECORD_OVERHEAD, SEGMENT_DATA_OFFSET,
    TYPE_CLOCK_STEP, TYPE_CLOSE, TYPE_ENTRY,
)
from kifa._memtable cimport Arena, arena_add, arena_add_control, arena_reserve, arena_size
from kifa._memtables cimport MAX_FROZEN, Memtables
from kifa._platform cimport (
    LARGE_PAGE_SIZE, boot_ms, cond_init, cond_wait_until, fdatasync, give_back_pages, map_buffer, monotonic,
    pthread_cond_broadcast, pthread_cond_destroy, pthread_cond_signal, pthread_cond_wait, pthread_mutex_init,
    pthread_mutex_lock, pthread_mutex_unlock, pwrite, unmap_buffer, use_large_pages, write,
)
from kifa._record cimport frame_record, seal_header, store_u64
from kifa._waiters cimport Waiter, empty_ring, release_all, wake_first

from kifa.errors import ClosedError, ForkedError, NoSpaceError, PoisonedError

cdef extern from *:
    """
    #include <pthread.h>

    /* Counts forks in the child: a log that was opened under another count belongs to another process. */
    static int kifa_fork_count = 0;
    static void kifa_count_fork(void) { kifa_fork_count++; }
    static int kifa_watch_forks(void) { return pthread_atfork(NULL, NULL, kifa_count_fork); }
    """
    int fork_count "kifa_fork_count"
    int watch_forks "kifa_watch_forks"() nogil

watch_forks()

cdef enum:
    # Control records of one group, beyond the bound for entries.
    CONTROL_ROOM = 64 * 1024
    CLOCK_STEP_RECORD_SIZE = 56
    BUFFER_SIZE = MAX_GROUP_SIZE + BLOCK_SIZE + CONTROL_ROOM
    # From here on, telling the device of each small page costs more than a large one does.
    LARGE_GROUP_SIZE = 64 * 1024

    CLOCK_STEP_MIN_MS = 1000
    WOKEN_AT_ONCE = 4

# What a thread needs to come back for its next entry: a wake-up, the interpreter's lock (measured: 10 to 40 us, sometimes more).
cdef double return_seconds = 60e-6


class SegmentFull(Exception):
    """The next record does not fit the segment; the engine rotates and calls again."""


cdef class GroupCommit(Memtables):
    """The open group, the group in flight, and who waits for them. `kifa._wal.LogWriter` puts entries into it.

    It writes to the segment it was given by `use_segment`; where that is full, methods that frame raise
    `SegmentFull`, and `kifa.engine` gives it the next one.
    """

    def __cinit__(self):
        cdef int index
        pthread_mutex_init(&self.gate, NULL)
        cond_init(&self.committer_work)
        cond_init(&self.gathered)
        empty_ring(&self.waiting[0])
        empty_ring(&self.waiting[1])
        empty_ring(&self.released)
        self.fork_generation = fork_count
        self.descriptor = -1
        for index in range(2):
            self.groups[index].buffer = <uint8_t *>map_buffer(LARGE_PAGE_SIZE)
        if self.groups[0].buffer == NULL or self.groups[1].buffer == NULL:
            raise MemoryError()

    def __init__(
        self, *, uint64_t next_lsn, size_t memtable_threshold_bytes, size_t max_group_size_bytes,
        uint32_t max_group_entries, bint normal,
    ):
        """Start behind LSN ``next_lsn - 1``, all of which is durable."""
        assert BUFFER_SIZE <= <int>LARGE_PAGE_SIZE
        assert next_lsn >= 1 and 1 <= max_group_entries and BLOCK_SIZE <= max_group_size_bytes <= MAX_GROUP_SIZE
        self.next_lsn = next_lsn
        self.durable = next_lsn - 1
        self.memtable_threshold = memtable_threshold_bytes
        self.max_group_size = max_group_size_bytes
        self.max_group_entries = max_group_entries
        self.pending_limit = NORMAL_PENDING_LIMIT if normal else 0
        self.groups[0].serial = 1
        self.groups[0].last_lsn = self.durable

    def __dealloc__(self):
        unmap_buffer(self.groups[0].buffer, LARGE_PAGE_SIZE)
        unmap_buffer(self.groups[1].buffer, LARGE_PAGE_SIZE)

    @property
    def durable_lsn(self) -> int:
        """The highest LSN covered by a sync that returned success."""
        return self.durable

    @property
    def last_lsn(self) -> int:
        """The highest LSN given to an entry, durable or not."""
        return self.next_lsn - 1

    def check_usable(self):
        """Raise ForkedError in a forked child, PoisonedError after a failed sync, ClosedError after `stop`."""
        if self.fork_generation != fork_count:
            raise ForkedError("this log was opened by the parent process; open it again after the fork")
        if self.poison:
            raise PoisonedError(
                f"a sync of the log failed ({os.strerror(self.poison)}); nothing after LSN {self.durable} is"
                " confirmed; check the disk, then open the log again to recover",
                lsn=self.durable,
            )
        if self.stopping:
            raise ClosedError("the log is closed")

    def poison_with(self, int error):
        """Refuse everything from now on: what is on disk is unknown, because of ``error`` (errno)."""
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.refuse_all(error)
            pthread_mutex_unlock(&self.mutex)

    cdef void refuse_all(self, int error) noexcept nogil:
        # With the mutex.
        cdef int index
        self.poison = error
        for index in range(2):
            release_all(&self.waiting[index], &self.released)
        wake_first(&self.released)
        pthread_cond_broadcast(&self.room)
        self.call_committer()

    cdef int check_fork(self) except -1:
        if self.fork_generation != fork_count:
            self.check_usable()
        return 0

    cdef int fail(self, int status) except -1:
        if status == STATUS_NEEDS_SEGMENT or status == STATUS_GROUP_FULL:
            raise SegmentFull
        if status == STATUS_NO_MEMORY:
            raise MemoryError()
        if status == STATUS_NO_SPACE:
            raise NoSpaceError(
                f"the memtables are full and cannot be flushed ({os.strerror(self.flush_error)});"
                " free some space, and it goes on"
            )
        self.check_usable()
        raise AssertionError(f"status {status}")

    def use_segment(self, int descriptor, uint64_t salt, uint64_t size_bytes, uint64_t end_offset):
        """Write the following groups to this segment, from ``end_offset`` on. Its header and name are durable.

        No group may be open.
        """
        assert self.groups[self.open_index].records == 0, "a group never spans segments"
        self.descriptor = descriptor
        self.salt = salt
        self.segment_size = size_bytes
        self.segment_offset = end_offset
        self.half_full = False

    def quiesce(self):
        """Commit what is framed; until `resume`, nothing is framed or written. For the change of a segment.

        It waits for the control record of a group that is held.
        """
        cdef int status = STATUS_OK
        cdef Group *group
        with nogil:
            pthread_mutex_lock(&self.mutex)
            while not self.poison:
                group = &self.groups[self.open_index]
                if self.in_flight or (self.held and group.records):
                    pthread_cond_wait(&self.room, &self.mutex)
                elif group.records:
                    self.lead()
                else:
                    break
            if self.poison:
                status = STATUS_POISONED
            else:
                self.in_flight = True
                self.segment_ready = False
            pthread_mutex_unlock(&self.mutex)
        if status != STATUS_OK:
            self.check_usable()

    def resume(self):
        """End `quiesce`."""
        pthread_mutex_lock(&self.mutex)
        self.in_flight = False
        self.segment_ready = self.descriptor >= 0
        pthread_cond_broadcast(&self.room)
        wake_first(&self.waiting[self.groups[self.open_index].serial & 1])
        self.call_committer()
        pthread_mutex_unlock(&self.mutex)

    @property
    def is_half_full(self) -> bool:
        """Whether the segment in use is more than half full, so that the next one should be prepared."""
        return self.half_full

    @property
    def fits(self) -> bool:
        """Whether the record that the last `SegmentFull` was raised for fits the segment now in use."""
        return self.descriptor >= 0 and self.needed_size <= self.segment_size - self.segment_offset

    @property
    def needed_segment_size_bytes(self) -> int:
        """The size of a segment that has room for the record that the last `SegmentFull` was raised for."""
        return SEGMENT_DATA_OFFSET + (self.needed_size + BLOCK_SIZE - 1) // BLOCK_SIZE * BLOCK_SIZE

    cdef int open_group(self, uint64_t timestamp_ms) noexcept nogil:
        # The first record of a group; where the wall clock stepped, that is a record which says so.
        cdef Group *group = &self.groups[self.open_index]
        cdef long long offset_ms = <long long>timestamp_ms - boot_ms()
        cdef long long step_ms = offset_ms - self.clock_offset_ms
        cdef uint8_t step[16]
        group.descriptor = self.descriptor
        group.offset = self.segment_offset
        group.last_lsn = self.next_lsn - 1
        self.oldest_pending = monotonic() if self.pending_limit else 0.0
        if self.clock_known and (step_ms >= CLOCK_STEP_MIN_MS or step_ms <= -CLOCK_STEP_MIN_MS):
            store_u64(step, timestamp_ms - <uint64_t>step_ms)
            store_u64(step + 8, timestamp_ms)
            if not arena_add_control(self.active, TYPE_CLOCK_STEP, group.last_lsn, step, 16):
                return STATUS_NO_MEMORY
            self.add_record(group, step, 16, TYPE_CLOCK_STEP, timestamp_ms)
        self.clock_offset_ms = offset_ms
        self.clock_known = True
        return STATUS_OK

    cdef void add_record(
        self, Group *group, const uint8_t *data, uint32_t length, uint8_t type, uint64_t timestamp_ms
    ) noexcept nogil:
        cdef uint8_t flags = FLAG_GROUP_START if group.records == 0 else 0
        cdef uint64_t lsn = self.next_lsn if type == TYPE_ENTRY else self.next_lsn - 1
        group.last_record = group.size
        group.size += frame_record(
            group.buffer + group.size, data, length, flags, type, lsn, timestamp_ms, self.salt
        )
        group.records += 1

    cdef int frame(
        self, const uint8_t *data, uint32_t length, uint8_t type, uint64_t timestamp_ms, size_t reserve
    ) noexcept nogil:
        # Frames one record into the open group. `reserve` bytes must be left behind it. With the mutex.
        cdef Group *group = &self.groups[self.open_index]
        cdef Arena *arena = self.active
        cdef size_t size = RECORD_OVERHEAD + length
        cdef size_t used = group.size if group.records else CLOCK_STEP_RECORD_SIZE
        if self.poison:
            return STATUS_POISONED
        if self.stopping and type != TYPE_CLOSE:
            return STATUS_STOPPED
        if self.held and type == TYPE_ENTRY:
            reserve = CONTROL_MAX_SIZE  # another thread's entry must not take it
        if not self.segment_ready:
            return STATUS_ROTATING
        if used + size + reserve > self.segment_size - self.segment_offset:
            self.needed_size = used + size + reserve
            return STATUS_GROUP_FULL if group.records else STATUS_NEEDS_SEGMENT
        if type == TYPE_ENTRY:
            if group.entries and (
                group.entries >= self.max_group_entries or used + size > self.max_group_size
            ):
                return STATUS_GROUP_FULL
            if self.frozen_count == MAX_FROZEN and arena_size(arena) >= self.memtable_threshold:
                return STATUS_NO_SPACE if self.flush_error else STATUS_NEEDS_FLUSH
            if not arena_reserve(arena, length):
                return STATUS_NO_MEMORY
        elif used + size + reserve > BUFFER_SIZE:
            return STATUS_GROUP_FULL
        elif not arena_add_control(arena, type, self.next_lsn - 1, data, length):
            return STATUS_NO_MEMORY
        if group.records == 0 and self.open_group(timestamp_ms) != STATUS_OK:
            return STATUS_NO_MEMORY
        self.add_record(group, data, length, type, timestamp_ms)
        if type == TYPE_ENTRY:
            arena_add(arena, self.next_lsn, timestamp_ms, data, length)
            group.entries += 1
            group.last_lsn = self.next_lsn
            self.next_lsn += 1
        return STATUS_OK

    cdef void seal(self) noexcept nogil:
        # Closes the open group: it is the one in flight now. With the mutex; nothing is in flight.
        cdef Group *group = &self.groups[self.open_index]
        cdef uint8_t *last = group.buffer + group.last_record
        cdef size_t framed = group.size
        last[4] |= FLAG_GROUP_END
        seal_header(last, self.salt)
        group.size = (framed + BLOCK_SIZE - 1) & ~<size_t>(BLOCK_SIZE - 1)
        memset(group.buffer + framed, 0, group.size - framed)
        self.segment_offset += group.size
        self.in_flight = True
        self.open_index ^= 1
        self.groups[self.open_index].records = 0
        self.groups[self.open_index].size = 0
        self.groups[self.open_index].entries = 0
        self.groups[self.open_index].committers = 0
        self.groups[self.open_index].serial = group.serial + 1
        self.groups[self.open_index].last_lsn = group.last_lsn
        if self.freeze_requested or arena_size(self.active) >= self.memtable_threshold:
            self.freeze_active()
        pthread_cond_broadcast(&self.room)

    cdef int write_in_flight(self) noexcept nogil:
        # Makes the sealed group durable, or returns an errno. Without the mutex: only who sealed it, or the committer
        # that was given it, touches the group until `publish`.
        cdef Group *group = &self.groups[self.open_index ^ 1]
        if group.size >= LARGE_GROUP_SIZE and not group.has_large_pages:
            # As dear as a sync or two, once in a load.
            use_large_pages(group.buffer, LARGE_PAGE_SIZE)
            group.has_large_pages = True
        group.written_at = monotonic()
        return write_and_sync(group.descriptor, group.buffer, group.size, group.offset)

    cdef void publish(self, int error) noexcept nogil:
        # Tells everyone that the group in flight is durable, or that its write failed. With the mutex.
        cdef Group *group = &self.groups[self.open_index ^ 1]
        cdef int index
        self.sync_seconds = monotonic() - group.written_at
        self.in_flight = False
        self.keeps_memory = self.keeps_memory or group.has_large_pages
        if error:
            self.refuse_all(error)
        else:
            self.durable = group.last_lsn
            self.synced_serial = group.serial
            self.returning += group.committers
            # One of those who wait for the next group leads it.
            wake_first(&self.waiting[(group.serial + 1) & 1])
        release_all(&self.waiting[group.serial & 1], &self.released)
        # A few at once, and each wakes the next: all at once only queue for the mutex and the interpreter's lock.
        for index in range(WOKEN_AT_ONCE):
            wake_first(&self.released)
        pthread_cond_broadcast(&self.room)
        if self.committer_running and (self.requested_serial > group.serial or self.pending_limit):
            self.call_committer()
        if not self.half_full and self.segment_offset * 2 > self.segment_size:
            # Time to prepare the next segment; a store that stays small never needs one.
            self.half_full = self.background_woken = True
        if self.frozen_count or error or self.background_woken:
            pthread_cond_signal(&self.background_work)

    cdef void free_unused(self) noexcept nogil:
        cdef int index
        Memtables.free_unused(self)
        if self.in_flight or self.groups[self.open_index].records:
            self.keeps_memory = True
            return
        for index in range(2):
            if self.groups[index].has_large_pages:
                give_back_pages(self.groups[index].buffer, LARGE_PAGE_SIZE)
                self.groups[index].has_large_pages = False

    cdef void lead(self) noexcept nogil:
        # Makes the open group durable. With the mutex; nothing is in flight.
        cdef int error
        self.seal()
        pthread_mutex_unlock(&self.mutex)
        error = self.write_in_flight()
        pthread_mutex_lock(&self.mutex)
        self.publish(error)

    cdef void call_committer(self) noexcept nogil:
        pthread_mutex_lock(&self.gate)
        self.committer_called = True
        pthread_cond_signal(&self.committer_work)
        pthread_mutex_unlock(&self.gate)

    cdef void wait_in(self, Waiter *ring) noexcept nogil:
        # Returns when woken. With the mutex.
        cdef Waiter me
        cond_init(&me.condition)
        me.woken = False
        me.next = ring
        me.previous = ring.previous
        ring.previous.next = &me
        ring.previous = &me
        while not me.woken:
            pthread_cond_wait(&me.condition, &self.mutex)
        pthread_cond_destroy(&me.condition)
        wake_first(&self.released)

    cdef void gather(self) noexcept nogil:
        # Lets those whose groups were just made durable come back before the next group closes: they are on their
        # way, and a sync for each few of them costs more than this short wait. A lone thread never gets here
        # (docs/decisions/0002-gathering-a-group.md). With the mutex.
        cdef double deadline = monotonic() + min(2 * self.sync_seconds, self.returning * return_seconds)
        self.in_flight = True
        while self.returning and not self.poison:
            if monotonic() >= deadline:
                self.returning -= 1  # late, or doing something else now: nobody waits for it again
                break
            cond_wait_until(&self.gathered, &self.mutex, deadline)
        self.in_flight = False

    cdef int commit_through(self, uint64_t serial) noexcept nogil:
        # Returns when the group `serial` is durable; leads where nobody else does. With the mutex.
        if serial == self.groups[self.open_index].serial:
            self.groups[self.open_index].committers += 1
            if self.returning:
                self.returning -= 1
                if self.returning == 0:
                    pthread_cond_signal(&self.gathered)
        while self.synced_serial < serial:
            if self.poison:
                return STATUS_POISONED
            if self.in_flight or self.held:
                self.wait_in(&self.waiting[serial & 1])
            else:
                if self.returning:
                    self.gather()
                if not self.held:  # it may have become so meanwhile
                    self.lead()
        return STATUS_OK

    cdef int make_room(self, int status) noexcept nogil:
        # Does what a full group or memtable needs, or waits for it; what it cannot do it returns. With the mutex.
        if status == STATUS_GROUP_FULL:
            return self.commit_through(self.last_framed_serial())
        if status == STATUS_NEEDS_FLUSH:
            pthread_cond_signal(&self.background_work)
        if status == STATUS_NEEDS_FLUSH or status == STATUS_ROTATING:
            pthread_cond_wait(&self.room, &self.mutex)
            return STATUS_OK
        return status

    cdef int hand_over(self) noexcept nogil:
        # Gets the full open group out of the way: the committer takes it as soon as the one before it is durable.
        cdef uint64_t serial = self.groups[self.open_index].serial
        if not self.committer_running:
            return self.commit_through(serial)
        if not self.in_flight and not self.held:
            self.seal()
            pthread_mutex_lock(&self.gate)
            self.sealed = True
            pthread_cond_signal(&self.committer_work)
            pthread_mutex_unlock(&self.gate)
            return STATUS_OK
        self.requested_serial = serial
        self.call_committer()
        while self.groups[self.open_index].serial == serial:
            if self.poison:
                return STATUS_POISONED
            pthread_cond_wait(&self.room, &self.mutex)
        return STATUS_OK

    cdef uint64_t last_framed_serial(self) noexcept nogil:
        cdef Group *group = &self.groups[self.open_index]
        return group.serial if group.records else group.serial - 1

    def commit(self):
        """Return when everything framed so far is durable. Raises PoisonedError, ForkedError."""
        cdef int status
        self.check_fork()
        with nogil:
            pthread_mutex_lock(&self.mutex)
            status = self.commit_through(self.last_framed_serial())
            pthread_mutex_unlock(&self.mutex)
        if status != STATUS_OK:
            self.fail(status)


cdef int write_and_sync(int descriptor, const uint8_t *data, size_t size, uint64_t offset) noexcept nogil:
    # Returns 0 or the errno of what failed. No retry of a failed sync: the kernel may have dropped the pages.
    cdef ssize_t written
    while size:
        written = pwrite(descriptor, data, size, <long>offset)
        if written < 0:
            if errno == EINTR:
                continue
            return errno
        if written == 0:
            return EIO
        data += written
        size -= <size_t>written
        offset += <uint64_t>written
    while fdatasync(descriptor) != 0:
        if errno != EINTR:
            return errno
    return 0
