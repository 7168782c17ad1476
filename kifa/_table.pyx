"""The columns of a sorted table's block (docs/FORMAT.md, "Block"): unpacking, and searching the index.

Each call handles one block (or the whole index) without the interpreter's lock; no Python object exists per entry.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kifa._batch cimport EntryBatch
from kifa._layout cimport MAX_ENTRY_SIZE, TABLE_INDEX_ROW_SIZE
from kifa._record cimport load_u32, load_u64

cdef extern from *:
    """
    static inline uint64_t kifa_unzigzag(uint64_t value) { return (value >> 1) ^ (0 - (value & 1)); }
    """
    uint64_t unzigzag "kifa_unzigzag"(uint64_t value) noexcept nogil


cdef inline const uint8_t *get_varint(const uint8_t *p, const uint8_t *end, uint64_t *value) noexcept nogil:
    """Return the position behind the varint at ``p``, or NULL where it is cut off or does not fit 64 bits."""
    cdef uint64_t result = 0
    cdef uint32_t shift = 0
    while p < end and shift < 64:
        if shift == 63 and p[0] > 1:
            return NULL
        result |= <uint64_t>(p[0] & 127) << shift
        p += 1
        if p[-1] < 128:
            value[0] = result
            return p
        shift += 7
    return NULL


def unpack_block(bytes payload not None, uint64_t first_lsn, Py_ssize_t count, uint64_t min_timestamp):
    """Return the entries of a block's raw payload as an `EntryBatch` that points into it.

    Raises:
        ValueError: the columns do not fit the payload.
    """
    cdef Py_ssize_t size = len(payload)
    cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(payload)
    if not 0 < count <= size:
        raise ValueError(f"{count} entries cannot be in {size} bytes")
    cdef EntryBatch batch = EntryBatch.allocate(count, base, payload)
    cdef bint fits
    batch.first_lsn = first_lsn
    with nogil:
        fits = _unpack_columns(batch, base, base + size, count, min_timestamp)
    if not fits:
        raise ValueError(f"the columns of {count} entries do not fit {size} bytes")
    batch.count = count
    return batch


cdef bint _unpack_columns(
    EntryBatch batch, const uint8_t *base, const uint8_t *end, Py_ssize_t count, uint64_t timestamp
) noexcept nogil:
    cdef const uint8_t *p = base
    cdef uint64_t value = 0, offset
    cdef Py_ssize_t i
    for i in range(count):
        p = get_varint(p, end, &value)
        if p == NULL:
            return False
        timestamp += unzigzag(value)
        batch.timestamps[i] = timestamp
    for i in range(count):
        p = get_varint(p, end, &value)
        if p == NULL or value > MAX_ENTRY_SIZE:
            return False
        batch.lengths[i] = <uint32_t>value
    offset = <uint64_t>(p - base)
    for i in range(count):
        batch.offsets[i] = <uint32_t>offset
        offset += batch.lengths[i]
        if offset > <uint64_t>(end - base):
            return False
    return offset == <uint64_t>(end - base)


def find_block(const uint8_t[::1] index not None, uint64_t lsn):
    """Return the position of the first block of ``index`` that ends at or behind ``lsn``; the block count if none."""
    cdef Py_ssize_t low = 0, high = index.shape[0] // TABLE_INDEX_ROW_SIZE, middle
    cdef const uint8_t *row
    while low < high:
        middle = (low + high) // 2
        row = &index[middle * TABLE_INDEX_ROW_SIZE]
        if load_u64(row) + load_u32(row + 8) <= lsn:  # its last LSN < lsn
            low = middle + 1
        else:
            high = middle
    return low


def skip_blocks(
    const uint8_t[::1] index not None,
    Py_ssize_t position,
    uint64_t from_lsn,
    uint64_t to_lsn,
    uint64_t from_time,
    uint64_t to_time,
    bint reverse,
):
    """Step from ``position`` over blocks with no timestamp in ``from_time`` to ``to_time``.

    Stops at a block that may have one, at the end of the LSN range, and where LSNs are missing between blocks.

    Returns:
        The number of blocks stepped over.
    """
    cdef Py_ssize_t blocks = index.shape[0] // TABLE_INDEX_ROW_SIZE, skipped = 0
    cdef Py_ssize_t step = -1 if reverse else 1
    cdef const uint8_t *row
    cdef uint64_t first, end, expected = 0
    with nogil:
        while 0 <= position < blocks:
            row = &index[0] + position * TABLE_INDEX_ROW_SIZE
            first = load_u64(row)
            end = first + load_u32(row + 8)
            if first > to_lsn or end <= from_lsn:
                break
            if skipped and expected != (end if reverse else first):
                break
            if load_u64(row + 24) <= to_time and load_u64(row + 32) >= from_time:
                break
            expected = first if reverse else end
            skipped += 1
            position += step
    return skipped


