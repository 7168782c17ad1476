from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kifa._crc32c cimport crc32c_extend
from kifa._layout cimport TABLE_BLOCK_HEADER_SIZE

# Both as they are on disk (docs/FORMAT.md, "Block" and "Index"): every field is at a multiple of its size.

cdef struct BlockHeader:
    uint64_t magic
    uint64_t first_lsn
    uint32_t entries
    uint8_t codec
    uint8_t zeros[3]
    uint32_t stored_size
    uint32_t raw_size
    uint64_t min_timestamp
    uint64_t max_timestamp
    uint32_t payload_crc
    uint32_t crc


cdef struct IndexRow:
    uint64_t first_lsn
    uint32_t entries
    uint32_t size
    uint64_t offset
    uint64_t min_timestamp
    uint64_t max_timestamp


cdef inline uint32_t header_crc(const BlockHeader *header, uint32_t seed) noexcept nogil:
    return crc32c_extend(seed, <const uint8_t *>header, TABLE_BLOCK_HEADER_SIZE - sizeof(uint32_t))
