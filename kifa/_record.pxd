from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from kifa._batch cimport EntryBatch
from kifa._crc32c cimport crc32c_extend
from kifa._layout cimport (
    BLOCK_SIZE, FLAG_GROUP_END, MAX_ENTRY_SIZE, RECORD_HEAD_SIZE, RECORD_HEADER_SIZE, RECORD_MAGIC, RECORD_OVERHEAD,
    RECORD_PROTECTED_SIZE, TYPE_CLOSE, TYPE_ENTRY,
)

cdef extern from *:
    """
    /* The store is little-endian, and so is every machine it runs on. */
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "Kifa needs a little-endian machine"
    #endif
    static inline uint32_t kifa_load_u32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }
    static inline uint64_t kifa_load_u64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
    static inline void kifa_store_u32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }
    static inline void kifa_store_u64(uint8_t *p, uint64_t v) { memcpy(p, &v, 8); }
    """
    uint32_t load_u32 "kifa_load_u32"(const uint8_t *p) noexcept nogil
    uint64_t load_u64 "kifa_load_u64"(const uint8_t *p) noexcept nogil
    void store_u32 "kifa_store_u32"(uint8_t *p, uint32_t v) noexcept nogil
    void store_u64 "kifa_store_u64"(uint8_t *p, uint64_t v) noexcept nogil


cdef struct Record:
    uint32_t length
    uint8_t flags
    uint8_t type
    uint64_t lsn
    uint64_t timestamp_ms


cdef enum RecordState:
    RECORD_VALID
    RECORD_DAMAGED      # the header is valid, the rest is not
    RECORD_INVALID      # nothing to go by
    RECORD_INCOMPLETE   # the header is valid, the record ends behind the bytes at hand


cdef inline void seal_header(uint8_t *record, uint64_t salt) noexcept nogil:
    store_u32(record + 8, crc32c_extend(<uint32_t>salt, record, RECORD_PROTECTED_SIZE))


cdef inline size_t frame_record(
    uint8_t *out, const uint8_t *data, uint32_t length, uint8_t flags, uint8_t type,
    uint64_t lsn, uint64_t timestamp_ms, uint64_t salt,
) noexcept nogil:
    # Writes one record (docs/FORMAT.md, "Record") and returns its size.
    store_u32(out, length)
    out[4] = flags
    out[5] = type
    out[6] = 0
    out[7] = 0
    seal_header(out, salt)
    store_u64(out + 12, lsn)
    store_u64(out + 20, timestamp_ms)
    # The checksum reads the source, not the copy: words just stored by a wide copy come back late.
    cdef uint32_t crc = crc32c_extend(<uint32_t>(salt >> 32), out + RECORD_HEADER_SIZE, 16)
    store_u32(out + RECORD_HEAD_SIZE + length, crc32c_extend(crc, data, length))
    memcpy(out + RECORD_HEAD_SIZE, data, length)
    store_u64(out + RECORD_HEAD_SIZE + length + 4, RECORD_MAGIC)
    return RECORD_OVERHEAD + length


cdef inline bint header_is_valid(const uint8_t *p, uint64_t salt) noexcept nogil:
    cdef uint64_t word = load_u64(p)
    return (
        (word >> 48) == 0
        and ((word >> 40) & 0xFF) <= TYPE_CLOSE
        and ((word >> 32) & 0xFF) <= 3
        and <uint32_t>word <= <uint32_t>MAX_ENTRY_SIZE
        and load_u32(p + 8) == crc32c_extend(<uint32_t>salt, p, RECORD_PROTECTED_SIZE)
    )


cdef inline RecordState parse_record(
    const uint8_t *p, size_t available, uint64_t salt, Record *record
) noexcept nogil:
    cdef uint32_t length
    if available < RECORD_OVERHEAD or not header_is_valid(p, salt):
        return RECORD_INVALID
    length = load_u32(p)
    record.length = length
    record.flags = p[4]
    record.type = p[5]
    if available < RECORD_OVERHEAD + length:
        return RECORD_INCOMPLETE
    record.lsn = load_u64(p + 12)
    record.timestamp_ms = load_u64(p + 20)
    if (
        load_u32(p + RECORD_HEAD_SIZE + length)
        != crc32c_extend(<uint32_t>(salt >> 32), p + RECORD_HEADER_SIZE, length + 16)
        or load_u64(p + RECORD_HEAD_SIZE + length + 4) != RECORD_MAGIC
    ):
        return RECORD_DAMAGED
    return RECORD_VALID


cdef inline uint64_t round_up_to_block(uint64_t offset) noexcept nogil:
    return (offset + BLOCK_SIZE - 1) & ~<uint64_t>(BLOCK_SIZE - 1)


cdef inline void decode_entries(EntryBatch batch, size_t size, uint64_t salt) noexcept nogil:
    # Extents start on a record; groups in them start on multiples of the block size, counted from the file's start,
    # and so from the extent's where it holds more than one group.
    cdef Record record
    cdef size_t offset = 0
    while offset < size and parse_record(batch.base + offset, size - offset, salt, &record) == RECORD_VALID:
        if record.type == TYPE_ENTRY:
            if batch.count == batch.capacity or record.lsn != batch.first_lsn + <uint64_t>batch.count:
                return
            batch.offsets[batch.count] = <uint32_t>(offset + RECORD_HEAD_SIZE)
            batch.lengths[batch.count] = record.length
            batch.timestamps[batch.count] = record.timestamp_ms
            batch.count += 1
        offset += RECORD_OVERHEAD + record.length
        if record.flags & FLAG_GROUP_END:
            offset = round_up_to_block(offset)


cdef inline void index_entries(EntryBatch batch, size_t size) noexcept nogil:
    # As `decode_entries`, of records that the walk has just found valid.
    cdef const uint8_t *record
    cdef size_t offset = 0
    while offset < size and batch.count < batch.capacity:
        record = batch.base + offset
        if record[5] == TYPE_ENTRY:
            batch.offsets[batch.count] = <uint32_t>(offset + RECORD_HEAD_SIZE)
            batch.lengths[batch.count] = load_u32(record)
            batch.timestamps[batch.count] = load_u64(record + 20)
            batch.count += 1
        offset += RECORD_OVERHEAD + load_u32(record)
        if record[4] & FLAG_GROUP_END:
            offset = round_up_to_block(offset)
