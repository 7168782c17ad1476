"""The scanner that finds records in any bytes, and the reader of what it found.

`SegmentScanner.survey` walks a segment once and says where its groups and its invalid areas are; `kifa.judgement`
judges them (docs/FORMAT.md, "Reading a segment"); `SegmentScanner.read` then decodes what counts.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kifa._batch cimport EntryBatch
from kifa._layout cimport (
    BLOCK_SIZE, FLAG_GROUP_END, FLAG_GROUP_START, MAX_ENTRY_SIZE, MAX_GROUP_SIZE, RECORD_HEAD_SIZE, RECORD_OVERHEAD,
    SEGMENT_DATA_OFFSET, TYPE_CLOSE, TYPE_ENTRY,
)
from kifa._record cimport (
    RECORD_DAMAGED, RECORD_INCOMPLETE, RECORD_INVALID, RECORD_VALID, Record, RecordState, decode_entries,
    header_is_valid, index_entries, parse_record, round_up_to_block,
)
from kifa._window cimport SegmentWindow, bytes_at

cdef enum:
    EXTENT_TARGET_SIZE = 256 * 1024
    # Whoever follows a segment reads a little and often; what is behind its end would be read in vain.
    FOLLOW_READ_SIZE = 64 * 1024
    # The entries of a group end within this; its control records are bounded far below the rest (see _wal.pyx).
    GROUP_REACH = MAX_GROUP_SIZE + MAX_ENTRY_SIZE


cdef class Extent:
    """Bytes ``start`` to ``end`` of a segment: whole valid records whose entries have consecutive LSNs.

    ``first_lsn`` and ``last_lsn`` are those of its ``entries`` entries; without entries, both are the LSN that its
    control records carry.
    """

    cdef readonly uint64_t start, end, first_lsn, last_lsn
    cdef readonly uint32_t entries, controls
    cdef readonly uint64_t min_timestamp, max_timestamp  # of the entries, in Unix ms

    def __repr__(self):
        return f"Extent({self.start}-{self.end}, LSN {self.first_lsn}-{self.last_lsn}, {self.entries} entries)"


cdef class BrokenGroup:
    """A group that is not valid from end to end: what is left of it, and the invalid areas in it."""

    cdef readonly uint64_t start, end
    cdef readonly bint has_start  # a valid GROUP_START record was seen
    cdef readonly bint has_end  # a valid GROUP_END record was seen
    cdef readonly bint is_last  # no valid GROUP_START follows in this segment
    cdef readonly list extents, areas

    def __cinit__(self):
        self.extents = []
        self.areas = []


cdef class Survey:
    """What a walk over a segment found, in the order of the file."""

    cdef readonly uint64_t start  # where the walk began
    cdef readonly list extents  # of complete groups
    cdef readonly list broken
    cdef readonly Extent last_group  # also the last of `extents`; None if it is broken or there is none
    cdef readonly uint64_t end  # where the walk ended
    cdef readonly bint closed  # ends in a close record

    def __cinit__(self):
        self.extents = []
        self.broken = []
        self.start = SEGMENT_DATA_OFFSET
        self.end = SEGMENT_DATA_OFFSET


cdef struct Run:
    uint64_t start
    uint64_t end
    uint64_t first_lsn
    uint64_t last_lsn
    uint32_t entries
    uint32_t controls
    uint64_t min_timestamp  # of the entries
    uint64_t max_timestamp


cdef inline bint extend_run(Run *run, const Record *record, uint64_t start, uint64_t end) noexcept nogil:
    # Adds a valid record; False where its LSN does not follow, so that a new run must begin.
    if record.type != TYPE_ENTRY:
        if run.entries == 0 and run.controls == 0:
            run.start = start
            run.first_lsn = record.lsn
            run.last_lsn = record.lsn
        run.controls += 1
    elif run.entries == 0:
        if run.controls == 0:
            run.start = start
        run.first_lsn = record.lsn
        run.last_lsn = record.lsn
        run.entries = 1
        run.min_timestamp = run.max_timestamp = record.timestamp_ms
    elif record.lsn == run.last_lsn + 1:
        run.last_lsn = record.lsn
        run.entries += 1
        run.min_timestamp = min(run.min_timestamp, record.timestamp_ms)
        run.max_timestamp = max(run.max_timestamp, record.timestamp_ms)
    else:
        return False
    run.end = end
    return True


cdef Extent extent_of(const Run *run):
    cdef Extent extent = Extent.__new__(Extent)
    extent.start = run.start
    extent.end = run.end
    extent.first_lsn = run.first_lsn
    extent.last_lsn = run.last_lsn
    extent.entries = run.entries
    extent.controls = run.controls
    if run.entries:
        extent.min_timestamp = run.min_timestamp
        extent.max_timestamp = run.max_timestamp
    return extent


cdef enum WalkState:
    WALK_MORE       # the run is long enough; call again
    WALK_CLOSED     # a close record was taken: nothing follows
    WALK_STOPPED    # no complete group at `position`
    WALK_FAILED     # errno is set


cdef class SegmentScanner(SegmentWindow):
    """Scans one open segment file of which the salt is known. Reads only; holds no lock."""

    cdef Run last_group
    cdef Run run
    cdef readonly Survey found  # by the walk that goes on
    cdef bint ended

    cdef uint64_t kept_start(self) noexcept nogil:
        return self.run.start if self.run.entries or self.run.controls else self.position

    cdef RecordState parse_at(self, uint64_t offset, Record *record, bint *failed) noexcept nogil:
        cdef size_t available
        cdef RecordState state
        cdef const uint8_t *bytes_here = bytes_at(self, offset, RECORD_OVERHEAD, &available)
        failed[0] = bytes_here == NULL
        if failed[0]:
            return RECORD_INVALID
        state = parse_record(bytes_here, available, self.salt, record)
        if state == RECORD_INCOMPLETE:
            bytes_here = bytes_at(self, offset, RECORD_OVERHEAD + record.length, &available)
            failed[0] = bytes_here == NULL
            if failed[0]:
                return RECORD_INVALID
            state = parse_record(bytes_here, available, self.salt, record)
        if state == RECORD_VALID and (record.flags & FLAG_GROUP_START) and offset % BLOCK_SIZE:
            state = RECORD_INVALID
        return state

    cdef WalkState walk_group(self, Run *group, bint *closed) noexcept nogil:
        # One complete group at `position`, or WALK_STOPPED.
        cdef Record record
        cdef uint64_t offset = self.position
        cdef bint failed = False
        cdef bint first = True
        group.entries = group.controls = 0
        closed[0] = False
        while True:
            if self.parse_at(offset, &record, &failed) != RECORD_VALID:
                return WALK_FAILED if failed else WALK_STOPPED
            if first != ((record.flags & FLAG_GROUP_START) != 0):
                return WALK_STOPPED
            if not extend_run(group, &record, offset, offset + RECORD_OVERHEAD + record.length):
                return WALK_STOPPED
            first = False
            offset = group.end
            if record.type == TYPE_CLOSE:
                closed[0] = True
            if record.flags & FLAG_GROUP_END:
                group.end = round_up_to_block(offset)
                return WALK_MORE

    cdef WalkState walk_complete(self) noexcept nogil:
        # Takes complete groups into `run` until it is long enough or the next one does not continue it.
        cdef Run group
        cdef WalkState state
        cdef bint closed = False
        self.run.entries = self.run.controls = 0
        while True:
            state = self.walk_group(&group, &closed)
            if state != WALK_MORE:
                return state
            if self.run.entries == 0 and self.run.controls == 0:
                self.run = group
            elif self.run.entries and group.entries and group.first_lsn != self.run.last_lsn + 1:
                return WALK_MORE
            else:
                if self.run.entries == 0 and group.entries:
                    self.run.first_lsn = group.first_lsn
                    self.run.min_timestamp = group.min_timestamp
                    self.run.max_timestamp = group.max_timestamp
                if group.entries:
                    self.run.last_lsn = group.last_lsn
                    self.run.min_timestamp = min(self.run.min_timestamp, group.min_timestamp)
                    self.run.max_timestamp = max(self.run.max_timestamp, group.max_timestamp)
                self.run.end = group.end
                self.run.entries += group.entries
                self.run.controls += group.controls
            self.last_group = group
            self.position = group.end
            if closed:
                return WALK_CLOSED
            if self.run.end - self.run.start >= EXTENT_TARGET_SIZE:
                return WALK_MORE

    def survey(self, bint thorough=False):
        """Walk the whole segment and return its `Survey`.

        With ``thorough``, what is left of a last group whose first record is lost is looked for, byte by byte. It does
        not count; a reader need not know of it.

        Raises:
            OSError: the file cannot be read.
        """
        self.begin()
        while self.next_extent(thorough) is not None:
            pass
        return self.found

    def begin(self, uint64_t start=SEGMENT_DATA_OFFSET, uint64_t after_lsn=0, chunks=None):
        """Begin a walk that `next_extent` does; ``found`` is what it has found so far.

        Args:
            start: begin there, if a group does that follows ``after_lsn``: it proves that all before it was durable.
            chunks: an iterator over what the file has from ``start`` on, for whoever reads it ahead.

        Raises:
            OSError: the file cannot be read.
        """
        self.have_window()
        self.ended = False
        self.found = Survey.__new__(Survey)
        self.last_group.entries = self.last_group.controls = 0
        self.run.entries = self.run.controls = 0
        self.read_ahead(chunks, start)
        self.position = start
        if start > SEGMENT_DATA_OFFSET and not self.follows(start, after_lsn):
            self.position = SEGMENT_DATA_OFFSET
        self.found.start = self.position

    def next_extent(self, bint thorough=False):
        """Walk on to the end of the next extent of complete groups and return it; None at the end of the walk.

        Raises:
            OSError: the file cannot be read.
        """
        cdef Py_ssize_t known = len(self.found.extents)
        try:
            while not self.ended:
                self.step(thorough)
                if len(self.found.extents) > known:
                    return self.found.extents[known]
        except BaseException:
            self.ended = True
            raise
        finally:  # a reader may have many segments open
            if self.ended and len(self.found.extents) == known:
                self.let_go()
        return None

    cdef bint follows(self, uint64_t offset, uint64_t lsn) except -1:
        # Whether a group starts at `offset`, with what comes directly behind the entry `lsn`.
        cdef Record record
        cdef bint failed = False
        cdef bint found = offset < self.size and self.parse_at(offset, &record, &failed) == RECORD_VALID
        if failed:
            self.fail()
        return found and record.flags & FLAG_GROUP_START and record.lsn == lsn + (record.type == TYPE_ENTRY)

    cdef int step(self, bint thorough) except -1:
        # Adds to `found`, perhaps an extent.
        cdef WalkState state
        self.keeps = self.chunks is not None
        with nogil:
            state = self.walk_complete()
        self.keeps = False
        if state == WALK_FAILED:
            self.fail()
        if self.run.entries or self.run.controls:
            self.found.extents.append(extent_of(&self.run))
            self.found.last_group = extent_of(&self.last_group)
        if state == WALK_CLOSED:
            self.found.closed = self.ended = True
        elif state == WALK_STOPPED:
            # A group may fill the segment to its last byte.
            group = self.walk_broken(thorough) if self.position < self.size else None
            if group is None:
                self.ended = True
            else:
                self.found.broken.append(group)
                if group.is_last:
                    self.found.last_group = None
                    self.ended = True
                else:
                    self.position = group.end
        self.found.end = self.position
        return 0

    def advance(self, uint64_t size_bytes):
        """Walk on from where the last walk ended, in a segment that is still being written.

        Args:
            size_bytes: the size that the segment will have.

        Returns:
            (extents, stuck): those of the groups that are complete by now, and whether none is although others stand
            behind: then `survey` tells what is wrong.

        Raises:
            OSError: the file cannot be read.
        """
        self.read_size = FOLLOW_READ_SIZE
        self.have_window()
        extents = self.walk_on(size_bytes)
        if extents or not self.find(
            self.position + BLOCK_SIZE, min(self.size, self.position + GROUP_REACH), BLOCK_SIZE, FLAG_GROUP_START
        ):
            return extents, False
        # A group that was being written is complete by the time that the next one can be seen.
        extents = self.walk_on(size_bytes)
        return extents, not extents

    cdef list walk_on(self, uint64_t size_bytes):
        cdef WalkState state = WALK_MORE
        self.window_size = 0
        self.size = size_bytes
        extents = []
        while state == WALK_MORE:
            with nogil:
                state = self.walk_complete()
            if state == WALK_FAILED:
                self.fail()
            if self.run.entries or self.run.controls:
                extents.append(extent_of(&self.run))
        return extents

    cdef BrokenGroup walk_broken(self, bint thorough):
        # The group at `position`, which is not complete, or None where there is nothing at all.
        cdef Record record
        cdef bint failed = False
        cdef uint64_t offset = self.position
        cdef RecordState state = self.parse_at(offset, &record, &failed)  # while the window has it
        cdef bint may_be_nothing = state != RECORD_VALID and state != RECORD_DAMAGED and not thorough
        if failed:
            self.fail()
        cdef uint64_t following = self.find(offset + BLOCK_SIZE, self.size, BLOCK_SIZE, FLAG_GROUP_START)
        cdef uint64_t limit = following if following else min(self.size, offset + GROUP_REACH)
        if may_be_nothing and following == 0:
            return None
        cdef uint64_t area_end
        cdef Run run
        cdef BrokenGroup group = BrokenGroup.__new__(BrokenGroup)
        group.start = self.position
        run.entries = run.controls = 0
        while offset < limit:
            state = self.parse_at(offset, &record, &failed)
            if failed:
                self.fail()
            area_end = 0
            if state == RECORD_VALID and (record.flags & FLAG_GROUP_START) and offset != group.start:
                break
            if state == RECORD_VALID:
                group.has_start = group.has_start or bool(record.flags & FLAG_GROUP_START)
                group.has_end = group.has_end or bool(record.flags & FLAG_GROUP_END)
                if not extend_run(&run, &record, offset, offset + RECORD_OVERHEAD + record.length):
                    group.extents.append(extent_of(&run))
                    run.entries = run.controls = 0
                    extend_run(&run, &record, offset, offset + RECORD_OVERHEAD + record.length)
                offset = run.end
            elif state == RECORD_DAMAGED and offset + RECORD_OVERHEAD + record.length <= limit:
                area_end = offset + RECORD_OVERHEAD + record.length
            else:
                record.flags = 0
                area_end = self.find(offset + 1, limit, 1, 0)
                if area_end == 0:
                    if following == 0 and offset == group.start:
                        return None
                    area_end = limit
            if area_end:
                if run.entries or run.controls:
                    group.extents.append(extent_of(&run))
                    run.entries = run.controls = 0
                group.areas.append((offset, area_end))
                offset = area_end
            if record.flags & FLAG_GROUP_END:
                offset = min(round_up_to_block(offset), limit)
                break
        if run.entries or run.controls:
            group.extents.append(extent_of(&run))
        group.end = offset
        group.is_last = following == 0
        return group

    cdef uint64_t find(self, uint64_t start, uint64_t stop, uint64_t step, uint8_t flags) except? 0:
        # The first offset in [start, stop) with a valid record that has `flags`, in steps of `step`; 0 if none.
        cdef uint64_t found = 0
        cdef bint failed = False
        with nogil:
            found = self.search(start, stop, step, flags, &failed)
        if failed:
            self.fail()
        return found

    cdef uint64_t search(
        self, uint64_t start, uint64_t stop, uint64_t step, uint8_t flags, bint *failed
    ) noexcept nogil:
        cdef Record record
        cdef size_t available
        cdef const uint8_t *bytes_here
        cdef uint64_t offset = start
        while offset < stop:
            bytes_here = bytes_at(self, offset, RECORD_OVERHEAD, &available)
            if bytes_here == NULL:
                failed[0] = True
                return 0
            if available < RECORD_OVERHEAD:
                return 0
            if header_is_valid(bytes_here, self.salt):
                if self.parse_at(offset, &record, failed) == RECORD_VALID and record.flags & flags == flags:
                    return offset
                if failed[0]:
                    return 0
            offset += step
        return 0

    cdef const uint8_t *walked(self, Extent extent, size_t *size) noexcept:
        # Where in the window the extent is that `next_extent` has just returned; NULL if it is there no more.
        cdef uint64_t end = min(extent.end, self.window_start + self.window_size)  # behind it are zeros
        if self.window == NULL or not self.window_start <= extent.start < end:
            return NULL
        size[0] = <size_t>(end - extent.start)
        return self.window + (extent.start - self.window_start)

    def read_walked(self, Extent extent not None):
        """Return what `read` does for the extent that `next_extent` has just returned; valid until its next call.

        Raises:
            OSError: the file cannot be read.
        """
        cdef size_t size = 0
        cdef const uint8_t *base = self.walked(extent, &size)
        if base == NULL:
            return self.read(extent)
        cdef EntryBatch batch = EntryBatch.allocate(extent.entries, base, self)
        batch.first_lsn = extent.first_lsn
        with nogil:
            index_entries(batch, size)
        return batch

    def read(self, Extent extent not None):
        """Decode an `Extent` into an `EntryBatch`; None if the file no longer holds it (it was recycled).

        Raises:
            OSError: the file cannot be read.
        """
        cdef EntryBatch batch
        content = os.pread(self.descriptor, extent.end - extent.start, extent.start)
        cdef size_t size = len(content)  # a truncated file may lack the zeros behind the last record
        batch = EntryBatch.allocate(extent.entries, <const uint8_t *>PyBytes_AS_STRING(content), content)
        batch.first_lsn = extent.first_lsn
        with nogil:
            decode_entries(batch, size, self.salt)
        return batch if batch.count == extent.entries else None

    def read_controls(self, Extent extent not None, below_lsn=None, bint walked=False):
        """Return the control records of an `Extent` as a list of (type, LSN, timestamp in ms, data).

        With ``walked``, it is the one that `next_extent` has just returned.

        With ``below_lsn``, only those of groups whose entries are below it: the rest of the extent was written again in
        the next segment, from that LSN on.
        """
        cdef Record record
        cdef size_t offset = 0
        cdef uint64_t below = 2**64 - 1 if below_lsn is None else below_lsn
        cdef Py_ssize_t in_whole_groups = 0
        cdef size_t size = 0
        cdef const uint8_t *base = self.walked(extent, &size) if walked else NULL
        controls = []
        if not extent.controls:
            return controls
        if base == NULL:
            content = os.pread(self.descriptor, extent.end - extent.start, extent.start)
            base = <const uint8_t *>PyBytes_AS_STRING(content)
            size = len(content)
        while offset < size and parse_record(base + offset, size - offset, self.salt, &record) == RECORD_VALID:
            if record.flags & FLAG_GROUP_START:
                in_whole_groups = len(controls)
            if record.lsn >= below:
                return controls[:in_whole_groups]
            if record.type != TYPE_ENTRY:
                data = PyBytes_FromStringAndSize(<const char *>base + offset + RECORD_HEAD_SIZE, record.length)
                controls.append((record.type, record.lsn, record.timestamp_ms, data))
            offset += RECORD_OVERHEAD + record.length
            if record.flags & FLAG_GROUP_END:
                offset = round_up_to_block(offset)
        return controls
