"""A run of entries with consecutive LSNs, decoded in place: what tables and segments give to every reader.

No Python object exists per entry until someone asks for one.
"""

from kifa._typing import NamedTuple

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc


class Entry(NamedTuple):
    """What a user logged: its LSN, the wall clock when it was accepted (Unix ms), and the bytes as they came."""

    lsn: int
    timestamp_ms: int
    data: bytes


cdef class EntryBatch:
    """Entries ``first_lsn`` to ``first_lsn + count - 1``."""

    @staticmethod
    cdef EntryBatch allocate(Py_ssize_t capacity, const uint8_t *base, object owner):
        cdef EntryBatch batch = EntryBatch.__new__(EntryBatch)
        batch.owns_arrays = True
        batch.capacity = capacity
        batch.offsets = <uint32_t *>malloc(capacity * sizeof(uint32_t) + 1)
        batch.lengths = <uint32_t *>malloc(capacity * sizeof(uint32_t) + 1)
        batch.timestamps = <uint64_t *>malloc(capacity * sizeof(uint64_t) + 1)
        if batch.offsets == NULL or batch.lengths == NULL or batch.timestamps == NULL:
            raise MemoryError()
        batch.base = base
        batch.owner = owner
        return batch

    def __dealloc__(self):
        if self.owns_arrays:
            free(self.offsets)
            free(self.lengths)
            free(self.timestamps)

    @property
    def last_lsn(self) -> int:
        return self.first_lsn + <uint64_t>self.count - 1

    def __len__(self) -> int:
        return self.count

    def entry(self, Py_ssize_t index):
        """Return entry ``index`` (0-based) as an `Entry`. Raises IndexError."""
        if not 0 <= index < self.count:
            raise IndexError(index)
        return Entry(
            self.first_lsn + <uint64_t>index,
            self.timestamps[index],
            PyBytes_FromStringAndSize(<const char *>self.base + self.offsets[index], self.lengths[index]),
        )

    def __iter__(self):
        cdef Py_ssize_t index
        for index in range(self.count):
            yield self.entry(index)

    def slice(self, Py_ssize_t start, Py_ssize_t stop):
        """Return the entries ``start`` to ``stop - 1`` (0-based, clipped) as a batch that shares this one's memory."""
        start = max(start, 0)
        stop = min(stop, self.count)
        cdef EntryBatch part = EntryBatch.__new__(EntryBatch)
        part.count = max(stop - start, 0)
        part.first_lsn = self.first_lsn + <uint64_t>start
        part.base = self.base
        part.offsets = self.offsets + start
        part.lengths = self.lengths + start
        part.timestamps = self.timestamps + start
        part.owner = self
        return part

    def within(self, uint64_t from_lsn, uint64_t to_lsn):
        """Return the part with ``from_lsn <= LSN <= to_lsn``, perhaps empty."""
        cdef uint64_t end = self.first_lsn + <uint64_t>self.count
        cdef uint64_t start = min(max(from_lsn, self.first_lsn), end)
        cdef uint64_t stop = end if to_lsn >= end else max(to_lsn + 1, start)
        return self.slice(<Py_ssize_t>(start - self.first_lsn), <Py_ssize_t>(stop - self.first_lsn))

    def within_time(self, uint64_t from_time, uint64_t to_time):
        """Return the entries with ``from_time <= timestamp <= to_time`` (Unix ms): a list of batches, ascending LSNs."""
        cdef Py_ssize_t start = 0, stop = 0
        runs = []
        while stop < self.count:
            with nogil:
                start = stop
                while start < self.count and not from_time <= self.timestamps[start] <= to_time:
                    start += 1
                stop = start
                while stop < self.count and from_time <= self.timestamps[stop] <= to_time:
                    stop += 1
            if stop > start:
                runs.append(self.slice(start, stop))
        return runs
