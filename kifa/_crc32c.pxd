from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t

cdef extern from "_crc32c.h" nogil:
    uint32_t crc32c_extend "kifa_crc32c"(uint32_t seed, const uint8_t *data, size_t size) noexcept
    uint32_t crc32c_extend_by_table "kifa_crc32c_table"(uint32_t seed, const uint8_t *data, size_t size) noexcept
