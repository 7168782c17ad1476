"""The memtable: entries that are in the log and not yet in a table, as one buffer and offset arrays.

A log needs no search structure in memory: entries arrive in LSN order and leave in LSN order.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy

from kifa._batch cimport EntryBatch
from kifa._memtable cimport Arena, arena_add, arena_last_lsn, arena_reserve, arena_size
from kifa._record cimport load_u32, load_u64, store_u32, store_u64

cdef enum:
    CONTROL_PREFIX_SIZE = 13


cdef Arena *arena_new() noexcept nogil:
    return <Arena *>calloc(1, sizeof(Arena))


cdef void arena_free(Arena *arena) noexcept nogil:
    if arena != NULL:
        free(arena.data)
        free(arena.offsets)
        free(arena.lengths)
        free(arena.timestamps)
        free(arena.controls)
        free(arena)


cdef void arena_reset(Arena *arena) noexcept nogil:
    arena.data_size = 0
    arena.count = 0
    arena.controls_size = 0
    arena.first_lsn = 0


cdef bint grow(void **buffer, size_t *capacity, size_t wanted, size_t item_size) noexcept nogil:
    # Doubles: realloc of a large block remaps pages and copies nothing.
    cdef size_t larger = capacity[0] if capacity[0] else 4096
    cdef void *moved
    while larger < wanted:
        larger *= 2
    moved = realloc(buffer[0], larger * item_size)
    if moved == NULL:
        return False
    buffer[0] = moved
    capacity[0] = larger
    return True


cdef bint arena_grow(Arena *arena, size_t data_size) noexcept nogil:
    cdef size_t capacity
    if arena.count == arena.capacity:
        capacity = arena.capacity
        if not grow(<void **>&arena.offsets, &capacity, arena.count + 1, sizeof(uint32_t)):
            return False
        capacity = arena.capacity
        if not grow(<void **>&arena.lengths, &capacity, arena.count + 1, sizeof(uint32_t)):
            return False
        capacity = arena.capacity
        if not grow(<void **>&arena.timestamps, &capacity, arena.count + 1, sizeof(uint64_t)):
            return False
        arena.capacity = capacity
    if arena.data_size + data_size > arena.data_capacity:
        return grow(<void **>&arena.data, &arena.data_capacity, arena.data_size + data_size, 1)
    return True


cdef bint arena_add_control(
    Arena *arena, uint8_t type, uint64_t lsn, const uint8_t *data, uint32_t length
) noexcept nogil:
    cdef size_t size = arena.controls_size + CONTROL_PREFIX_SIZE + length
    cdef uint8_t *out
    if size > arena.controls_capacity and not grow(
        <void **>&arena.controls, &arena.controls_capacity, size, 1
    ):
        return False
    out = arena.controls + arena.controls_size
    out[0] = type
    store_u64(out + 1, lsn)
    store_u32(out + 9, length)
    memcpy(out + CONTROL_PREFIX_SIZE, data, length)
    arena.controls_size = size
    return True


cdef class Memtable:
    """Consecutive entries and the control records among them."""

    def __cinit__(self):
        self.owned = False

    def __init__(self):
        """Make an empty memtable (recovery fills it by `extend`)."""
        self.arena = arena_new()
        if self.arena == NULL:
            raise MemoryError()
        self.owned = True

    @staticmethod
    cdef Memtable borrow(Arena *arena):
        cdef Memtable memtable = Memtable.__new__(Memtable)
        memtable.arena = arena
        return memtable

    def __dealloc__(self):
        if self.owned:
            arena_free(self.arena)

    @property
    def first_lsn(self) -> int:
        return self.arena.first_lsn

    @property
    def last_lsn(self) -> int:
        return arena_last_lsn(self.arena)

    @property
    def count(self) -> int:
        return self.arena.count

    @property
    def size_bytes(self) -> int:
        return arena_size(self.arena)

    @property
    def log_end(self) -> tuple:
        """Where its records end in the log, once it was frozen: (salt of the segment, offset); (0, 0) if not known."""
        return self.arena.end_salt, self.arena.end_offset

    def batch(self):
        """Return all entries as one `EntryBatch` that shares this memtable's memory."""
        cdef EntryBatch batch = EntryBatch.__new__(EntryBatch)
        batch.first_lsn = self.arena.first_lsn
        batch.count = <Py_ssize_t>self.arena.count
        batch.base = self.arena.data
        batch.offsets = self.arena.offsets
        batch.lengths = self.arena.lengths
        batch.timestamps = self.arena.timestamps
        batch.owner = self
        return batch

    def controls(self):
        """Return the control records as a list of (type, LSN, data)."""
        cdef size_t offset = 0
        cdef uint32_t length
        cdef const uint8_t *p
        found = []
        while offset < self.arena.controls_size:
            p = self.arena.controls + offset
            length = load_u32(p + 9)
            data = PyBytes_FromStringAndSize(<const char *>p + CONTROL_PREFIX_SIZE, length)
            found.append((p[0], load_u64(p + 1), data))
            offset += CONTROL_PREFIX_SIZE + length
        return found

    def extend(self, EntryBatch batch not None):
        """Append a batch whose first LSN follows the last one here."""
        cdef Py_ssize_t index
        cdef bint enough = True
        cdef Arena *arena = self.arena
        assert arena.count == 0 or batch.first_lsn == arena_last_lsn(arena) + 1, "LSNs in a memtable are consecutive"
        with nogil:
            for index in range(batch.count):
                enough = arena_reserve(arena, batch.lengths[index])
                if not enough:
                    break
                arena_add(
                    arena, batch.first_lsn + <uint64_t>index, batch.timestamps[index],
                    batch.base + batch.offsets[index], batch.lengths[index],
                )
        if not enough:
            raise MemoryError()

    def add_control(self, uint8_t type, uint64_t lsn, bytes data not None):
        """Append a control record."""
        if not arena_add_control(self.arena, type, lsn, <const uint8_t *><char *>data, <uint32_t>len(data)):
            raise MemoryError()
