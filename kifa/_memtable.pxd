from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy


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
    # Where the log ended when it was frozen: salt of the segment, offset in it.
    uint64_t end_salt
    uint64_t end_offset
    # Control records, each as type u8, LSN u64, length u32, data.
    uint8_t *controls
    size_t controls_size
    size_t controls_capacity


cdef Arena *arena_new() noexcept nogil
cdef void arena_free(Arena *arena) noexcept nogil
cdef void arena_reset(Arena *arena) noexcept nogil
cdef bint arena_grow(Arena *arena, size_t data_size) noexcept nogil
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


cdef inline bint arena_reserve(Arena *arena, size_t data_size) noexcept nogil:
    # Makes room for one more entry of `data_size` bytes; False without memory, and nothing has changed then.
    if arena.count < arena.capacity and arena.data_size + data_size <= arena.data_capacity:
        return True
    return arena_grow(arena, data_size)


cdef inline void arena_add(
    Arena *arena, uint64_t lsn, uint64_t timestamp_ms, const uint8_t *data, uint32_t length
) noexcept nogil:
    # Adds the entry that `arena_reserve` made room for.
    if arena.count == 0:
        arena.first_lsn = lsn
    memcpy(arena.data + arena.data_size, data, length)
    arena.offsets[arena.count] = <uint32_t>arena.data_size
    arena.lengths[arena.count] = length
    arena.timestamps[arena.count] = timestamp_ms
    arena.data_size += length
    arena.count += 1


cdef class Memtable:
    cdef Arena *arena
    cdef bint owned

    @staticmethod
    cdef Memtable borrow(Arena *arena)
