from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef struct Arena:
    # The data of consecutive entries, end to end, and where each one is.
    uint8_t *data
    size_t data_size
    size_t data_capacity
    uint32_t *offsets
    uint32_t *lengths
    uint64_t *timestamps
    size_t count
    size_t capacity
    uint64_t first_lsn
    # Control records, each as type u8, LSN u64, length u32, data.
    uint8_t *controls
    size_t controls_size
    size_t controls_capacity


cdef Arena *arena_new() noexcept nogil
cdef void arena_free(Arena *arena) noexcept nogil
cdef void arena_reset(Arena *arena) noexcept nogil
cdef bint arena_reserve(Arena *arena, size_t data_size) noexcept nogil
cdef bint arena_add_control(
    Arena *arena, uint8_t type, uint64_t lsn, const uint8_t *data, uint32_t length
) noexcept nogil

# What one entry costs beside its data.
cdef enum:
    ARENA_ENTRY_SIZE = 16


cdef inline size_t arena_size(const Arena *arena) noexcept nogil:
    return arena.data_size + arena.count * ARENA_ENTRY_SIZE + arena.controls_size


cdef inline uint64_t arena_last_lsn(const Arena *arena) noexcept nogil:
    return arena.first_lsn + arena.count - 1


cdef class Memtable:
    cdef Arena *arena
    cdef bint owned

    @staticmethod
    cdef Memtable borrow(Arena *arena)
