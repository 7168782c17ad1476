"""The log writer: what puts entries, lines and control records into groups.

`kifa._group` and `kifa._committer` are below it: they make the groups durable.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from kifa._group cimport (
    CONTROL_MAX_SIZE, STATUS_GROUP_FULL, STATUS_NEEDS_SEGMENT, STATUS_OK, STATUS_POISONED, STATUS_ROTATING, Group,
)
from kifa._layout cimport MAX_ENTRY_SIZE, RECORD_OVERHEAD, TYPE_CLOSE, TYPE_ENTRY
from kifa._lines cimport LINE_FOUND, LINE_NONE, LineBuffer, LineState
from kifa._memtable cimport Memtable, arena_free
from kifa._memtables cimport MAX_FROZEN
from kifa._platform cimport (
    pthread_cond_broadcast, pthread_cond_signal, pthread_cond_wait, pthread_mutex_lock, pthread_mutex_trylock,
    pthread_mutex_unlock, wall_ms,
)
from kifa._waiters cimport wake_first

from kifa._group import SegmentFull
from kifa.errors import EntryTooLargeError

__all__ = ["DRAINED", "GROUP_FULL", "Batch", "OVERSIZE", "LogWriter", "SegmentFull"]

# Why `frame_lines` returned.
DRAINED, OVERSIZE, GROUP_FULL = range(3)


cdef enum:
    BATCH_SLICES = 8192
    # A group worth a sync of its own, where a batch needs several.
    EARLY_GROUP_SIZE = 512 * 1024


cdef class SliceBatch:
    """Where the bytes of some items of a batch are, so that they can be framed without the interpreter's lock."""

    def __cinit__(self, Py_ssize_t capacity):
        self.capacity = capacity
        self.slices = <Slice *>malloc(max(capacity, 1) * sizeof(Slice))
        if self.slices == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.slices)

    # Each index is below the length that is asked just before; checking again would be a fifth of this loop.
    @cython.boundscheck(False)
    @cython.wraparound(False)
    cdef object fill(self, list items, Py_ssize_t start):
        # Takes items from `start` on, which `items` must keep alive; returns what is wrong with the next one, or None.
        cdef bytes item
        cdef Py_ssize_t size
        cdef Slice *slice = self.slices
        self.count = 0
        self.size = 0
        while self.count < self.capacity and start + self.count < len(items):
            if type(items[start + self.count]) is not bytes:
                try:
                    items[start + self.count] = bytes(memoryview(items[start + self.count]))
                except BaseException as error:
                    return error
            item = <bytes>items[start + self.count]
            size = PyBytes_GET_SIZE(item)
            if size > MAX_ENTRY_SIZE:
                return too_large(size)
            slice.data = <const uint8_t *>PyBytes_AS_STRING(item)
            slice.length = <uint32_t>size
            self.size += RECORD_OVERHEAD + <size_t>size
            slice += 1
            self.count += 1
        return None


cdef class LogWriter(Committer):
    """Writes one log. Many threads may use it at once; they share syncs."""

    cdef void await_batch(self) noexcept nogil:
        while self.in_batch and not self.poison:
            pthread_cond_wait(&self.room, &self.mutex)

    def append(self, const uint8_t[::1] data not None):
        """Frame one entry and, but in normal mode, make it durable. Return its LSN.

        Raises:
            EntryTooLargeError, NoSpaceError, ForkedError, PoisonedError, ClosedError: it was not accepted.
            SegmentFull: call again once there is another segment.
        """
        cdef uint64_t lsn = 0
        cdef int status
        cdef const uint8_t *start = &data[0] if data.shape[0] else NULL
        cdef uint64_t serial
        if data.shape[0] > MAX_ENTRY_SIZE:
            raise too_large(data.shape[0])
        self.check_fork()
        with nogil:
            pthread_mutex_lock(&self.mutex)
            while True:
                self.await_batch()
                status = self.frame(start, <uint32_t>data.shape[0], TYPE_ENTRY, <uint64_t>wall_ms(), 0)
                if status == STATUS_OK:
                    break
                status = self.make_room(status)
                if status != STATUS_OK:
                    break
            if status == STATUS_OK:
                lsn = self.next_lsn - 1
                serial = self.groups[self.open_index].serial
                if self.pending_limit == 0 or lsn - self.durable >= self.pending_limit:
                    status = self.commit_through(serial)
                elif self.groups[self.open_index].records == 1:
                    # Others may have framed since; the committer looks at the oldest.
                    self.call_committer()
            pthread_mutex_unlock(&self.mutex)
        if status != STATUS_OK:
            self.fail(status)
        return lsn

    def append_many(self, list items not None, Py_ssize_t start):
        """Frame ``items[start:]`` (bytes-like) and make them durable, in few groups; one is framed while one syncs.

        Within a `Batch`. Return how many were framed: fewer than all where the segment is full.
        ``items`` must not change meanwhile; what is not bytes in it becomes bytes.

        Raises:
            TypeError, EntryTooLargeError, NoSpaceError, PoisonedError, ClosedError: what was framed before is durable.
            SegmentFull: nothing was framed.
        """
        cdef Py_ssize_t index = start
        cdef Py_ssize_t framed = 0
        cdef int status = STATUS_OK
        cdef int committed = STATUS_OK
        cdef object refused = None
        cdef SliceBatch batch
        cdef bint is_last = False
        cdef Py_ssize_t wanted = min(len(items) - start, BATCH_SLICES)
        self.check_fork()
        if self.batch is None or self.batch.capacity < wanted:
            self.batch = SliceBatch(wanted)  # kept: touching new memory costs as much as filling it
        batch = self.batch
        while not is_last:
            refused = batch.fill(items, index)
            is_last = refused is not None or index + batch.count == len(items)
            # Without the interpreter's lock once: coming back for it may take as long as a sync.
            with nogil:
                pthread_mutex_lock(&self.mutex)
                status = self.frame_slices(batch, &framed)
                is_last = is_last or status != STATUS_OK
                if is_last:
                    committed = self.commit_through(self.last_framed_serial())
                pthread_mutex_unlock(&self.mutex)
            index += framed
        if committed != STATUS_OK:
            self.fail(committed)
        if status != STATUS_OK and not (status == STATUS_NEEDS_SEGMENT and index > start):
            self.fail(status)
        if status == STATUS_OK and refused is not None:
            raise refused
        return index - start

    cdef int frame_slices(self, SliceBatch batch, Py_ssize_t *framed) noexcept nogil:
        # With the mutex.
        cdef Group *group
        cdef Slice *slice = batch.slices
        cdef size_t left = batch.size
        cdef uint64_t timestamp_ms = <uint64_t>wall_ms()
        cdef int status = STATUS_OK
        framed[0] = 0
        while framed[0] < batch.count and status == STATUS_OK:
            status = self.frame(slice.data, slice.length, TYPE_ENTRY, timestamp_ms, 0)
            if status == STATUS_OK:
                left -= RECORD_OVERHEAD + slice.length
                framed[0] += 1
                slice += 1
                group = &self.groups[self.open_index]
                if (
                    group.size < EARLY_GROUP_SIZE or self.in_flight or not self.committer_running
                    or left < EARLY_GROUP_SIZE or group.size + left <= self.max_group_size
                ):
                    continue
                # More than one group in any case: its sync and the framing of the rest go on together.
                status = STATUS_GROUP_FULL
            status = self.hand_over() if status == STATUS_GROUP_FULL else self.make_room(status)
            timestamp_ms = <uint64_t>wall_ms()
        return status

    def frame_control(self, uint8_t type, bytes data not None):
        """Frame a control record into the open group, and let go of the group if `frame_lines` held it.

        Raises:
            SegmentFull: only where the group was not held.
        """
        cdef int status
        cdef const uint8_t *start = <const uint8_t *><char *>data
        cdef uint32_t size = <uint32_t>len(data)
        assert size + RECORD_OVERHEAD <= CONTROL_MAX_SIZE, "a control record is bounded"
        self.check_fork()
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.held = False
            status = self.frame(start, size, type, <uint64_t>wall_ms(), 0)
            while status == STATUS_ROTATING:
                self.make_room(status)
                status = self.frame(start, size, type, <uint64_t>wall_ms(), 0)
            wake_first(&self.waiting[self.groups[self.open_index].serial & 1])
            self.call_committer()
            pthread_cond_broadcast(&self.room)
            pthread_mutex_unlock(&self.mutex)
        if status != STATUS_OK:
            self.fail(status)

    def frame_entry(self, const uint8_t[::1] data not None):
        """Frame one entry and return its LSN without waiting for its sync. Raises as `append`."""
        cdef uint64_t lsn = 0
        cdef int status
        cdef const uint8_t *start = &data[0] if data.shape[0] else NULL
        if data.shape[0] > MAX_ENTRY_SIZE:
            raise too_large(data.shape[0])
        self.check_fork()
        with nogil:
            pthread_mutex_lock(&self.mutex)
            while True:
                self.await_batch()
                status = self.frame(start, <uint32_t>data.shape[0], TYPE_ENTRY, <uint64_t>wall_ms(), 0)
                if status == STATUS_OK:
                    break
                status = self.hand_over() if status == STATUS_GROUP_FULL else self.make_room(status)
                if status != STATUS_OK:
                    break
            lsn = self.next_lsn - 1
            pthread_mutex_unlock(&self.mutex)
        if status != STATUS_OK:
            self.fail(status)
        return lsn

    def frame_lines(self, LineBuffer lines not None, bint hold=False):
        """Frame the whole lines in ``lines`` without waiting for their sync.

        Full groups go to the committer (`run_committer`) while the next one is framed. With ``hold``, the open group
        stays open until `frame_control` has added the source checkpoint that belongs to these lines.

        Returns:
            (first LSN, number of entries, why it stopped, size in bytes of a refused line or 0); the reason is
            DRAINED, OVERSIZE (a line was refused; call again) or GROUP_FULL (call again, after `frame_control` and
            `commit` where the group is held).

        Raises:
            SegmentFull: nothing was framed; call again once there is another segment.
            NoSpaceError, PoisonedError, ClosedError, ForkedError: nothing was framed, the lines stay in ``lines``.
        """
        cdef uint64_t first_lsn = 0
        cdef uint64_t count = 0
        cdef int status = STATUS_OK
        cdef int reason = -1
        self.check_fork()
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.await_batch()
            status = self.frame_available(lines, hold, &first_lsn, &count, &reason)
            if hold and count:
                self.held = True
            pthread_mutex_unlock(&self.mutex)
        if status != STATUS_OK and count == 0:
            self.fail(status)
        return first_lsn, count, reason if status == STATUS_OK else GROUP_FULL, lines.oversize if reason == 1 else 0

    cdef int frame_available(
        self, LineBuffer lines, bint hold, uint64_t *first_lsn, uint64_t *count, int *reason
    ) noexcept nogil:
        cdef LineState state
        cdef const uint8_t *line = NULL
        cdef size_t length = 0
        cdef size_t advance = 0
        cdef size_t reserve = CONTROL_MAX_SIZE if hold else 0
        cdef uint64_t timestamp_ms = <uint64_t>wall_ms()
        cdef int status
        while True:
            state = lines.peek(&line, &length, &advance)
            if state != LINE_FOUND:
                reason[0] = 0 if state == LINE_NONE else 1
                return STATUS_OK
            status = self.frame(line, <uint32_t>length, TYPE_ENTRY, timestamp_ms, reserve)
            if status == STATUS_OK:
                lines.take(advance)
                if count[0] == 0:
                    first_lsn[0] = self.next_lsn - 1
                count[0] += 1
                continue
            if hold and count[0]:
                return status
            if status == STATUS_GROUP_FULL:
                status = self.hand_over()
            else:
                status = self.make_room(status)
            if status != STATUS_OK:
                return status
            self.await_batch()  # one may have begun while this waited
            if count[0] and self.next_lsn != first_lsn[0] + count[0]:
                # Another thread's entries came between; one call returns one range of LSNs.
                return STATUS_GROUP_FULL
            timestamp_ms = <uint64_t>wall_ms()

    def abandon_hold(self):
        """Let go of the group that `frame_lines` held: the control record for it will not come."""
        pthread_mutex_lock(&self.mutex)
        self.held = False
        wake_first(&self.waiting[self.groups[self.open_index].serial & 1])
        pthread_cond_broadcast(&self.room)
        pthread_mutex_unlock(&self.mutex)

    def stop(self):
        """Refuse entries from now on, make durable what was framed, and add the close record if there is room."""
        cdef int status
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.stopping = True
            status = self.commit_through(self.last_framed_serial())
            if status == STATUS_OK:
                status = self.frame(NULL, 0, TYPE_CLOSE, <uint64_t>wall_ms(), 0)
            if status == STATUS_OK:
                status = self.commit_through(self.last_framed_serial())
            pthread_mutex_unlock(&self.mutex)
        if status == STATUS_POISONED:
            self.check_usable()

    def adopt(self, Memtable memtable not None):
        """Take over a memtable that recovery filled, as the active one if there is none, else behind the frozen."""
        pthread_mutex_lock(&self.mutex)
        assert memtable.owned and self.groups[self.open_index].records == 0
        assert self.frozen_count < MAX_FROZEN
        if self.active.count or self.active.controls_size:
            self.freeze_active()
        arena_free(self.active)
        self.active = memtable.arena
        memtable.arena = NULL
        memtable.owned = False
        pthread_mutex_unlock(&self.mutex)

    def request_freeze(self):
        """Freeze the active memtable at the end of the open group, or now if there is none."""
        pthread_mutex_lock(&self.mutex)
        self.freeze_requested = True
        if self.groups[self.open_index].records == 0:
            self.freeze_active()
            if self.active.count == 0:
                self.freeze_requested = False  # or a group that is framed later would be a table of its own
        pthread_cond_signal(&self.background_work)
        pthread_mutex_unlock(&self.mutex)


@cython.no_gc  # so that `writer` is still there when the last reference goes
cdef class Batch:
    """Keeps other threads from framing, so that a batch gets one range of LSNs. A context manager.

    Who owns the batch is noted here, in C: an interrupt comes before the batch has begun or when it is the `with`
    statement's to end; and where that lost it, the end of this object ends it.
    """

    cdef LogWriter writer
    cdef bint begun

    def __cinit__(self, LogWriter writer not None):
        self.writer = writer

    def __enter__(self) -> int:
        """Return the LSN that the next entry will get. Raises ForkedError, PoisonedError, ClosedError."""
        cdef LogWriter writer = self.writer
        cdef uint64_t lsn = 0
        writer.check_usable()
        # Nobody else is at it, as a rule: then the interpreter's lock need not be let go.
        if pthread_mutex_trylock(&writer.mutex) == 0:
            self.begun = not writer.in_batch
            if self.begun:
                writer.in_batch = True
                lsn = writer.next_lsn
            pthread_mutex_unlock(&writer.mutex)
            if self.begun:
                return lsn
        with nogil:
            pthread_mutex_lock(&writer.mutex)
            while writer.in_batch:
                pthread_cond_wait(&writer.room, &writer.mutex)
            writer.in_batch = True
            lsn = writer.next_lsn
            pthread_mutex_unlock(&writer.mutex)
        self.begun = True
        return lsn

    def __exit__(self, *_):
        self.end()

    def __dealloc__(self):
        self.end()

    cdef void end(self) noexcept:
        if not self.begun:
            return
        self.begun = False
        pthread_mutex_lock(&self.writer.mutex)
        self.writer.in_batch = False
        pthread_cond_broadcast(&self.writer.room)
        pthread_mutex_unlock(&self.writer.mutex)


cdef object too_large(Py_ssize_t size):
    return EntryTooLargeError(f"an entry of {size} bytes is larger than {MAX_ENTRY_SIZE} bytes; split it")
