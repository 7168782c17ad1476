"""Whole blocks of a sorted table (docs/FORMAT.md, "Block"), a run of them at a time: verified, and entered in an index.

A run are blocks that lie one behind another. Compressed blocks may be tiny, thousands in a MiB, so nothing is done
for each in Python, and the interpreter's lock is let go: threads that append would wait for it.
"""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from kifa._layout cimport CODEC_ZSTD, TABLE_BLOCK_HEADER_SIZE, TABLE_BLOCK_MAGIC, TABLE_INDEX_ROW_SIZE

assert sizeof(BlockHeader) == TABLE_BLOCK_HEADER_SIZE and sizeof(IndexRow) == TABLE_INDEX_ROW_SIZE

DAMAGE = (
    None,
    "the header of a block is damaged",
    "a block is not the one the index names",
    "the payload of a block is damaged",
)

cdef enum Verdict:  # positions in DAMAGE
    WHOLE
    HEADER_DAMAGED
    NAMED_OTHERWISE
    PAYLOAD_DAMAGED


cdef Verdict judge(
    const uint8_t *block, uint64_t available, const IndexRow *row, uint32_t seed
) noexcept nogil:
    """Tell whether the block of ``row`` is at ``block``, and whole."""
    cdef BlockHeader header
    if row.size < TABLE_BLOCK_HEADER_SIZE or row.size > available:
        return HEADER_DAMAGED
    memcpy(&header, block, sizeof(header))
    if (
        header.crc != header_crc(&header, seed)
        or header.magic != TABLE_BLOCK_MAGIC
        or header.zeros[0] | header.zeros[1] | header.zeros[2]
        or header.entries == 0
        or header.codec > CODEC_ZSTD
    ):
        return HEADER_DAMAGED
    if (
        header.first_lsn != row.first_lsn
        or header.entries != row.entries
        or header.stored_size != row.size - TABLE_BLOCK_HEADER_SIZE
    ):
        return NAMED_OTHERWISE
    if crc32c_extend(seed, block + TABLE_BLOCK_HEADER_SIZE, header.stored_size) != header.payload_crc:
        return PAYLOAD_DAMAGED
    return WHOLE


cdef const uint8_t *rows_at(const uint8_t[::1] index, Py_ssize_t position, Py_ssize_t count) except NULL:
    cdef Py_ssize_t blocks = index.shape[0] // TABLE_INDEX_ROW_SIZE
    if position < 0 or count < 1 or count > blocks - position:
        raise IndexError(f"rows {position} to {position + count - 1} of {blocks}")
    return &index[position * TABLE_INDEX_ROW_SIZE]


def find_run(const uint8_t[::1] index not None, Py_ssize_t position, uint64_t largest_size):
    """Return how many blocks, from ``position`` of ``index`` on, make a run of at most ``largest_size`` bytes or one block.

    Returns:
        ``(count, offset of the first, size in bytes of all)``.
    """
    cdef Py_ssize_t count = 1, blocks = index.shape[0] // TABLE_INDEX_ROW_SIZE
    cdef const uint8_t *rows = rows_at(index, position, 1)
    cdef IndexRow row
    cdef uint64_t start, size
    with nogil:
        memcpy(&row, rows, sizeof(row))
        start, size = row.offset, row.size
        while position + count < blocks:
            memcpy(&row, rows + count * TABLE_INDEX_ROW_SIZE, sizeof(row))
            if row.offset != start + size or size + row.size > largest_size:
                break
            size += row.size
            count += 1
    return count, start, size


def check_blocks(
    const uint8_t[::1] run not None,
    const uint8_t[::1] index not None,
    Py_ssize_t position,
    Py_ssize_t count,
    uint32_t seed,
):
    """Verify the blocks in ``run`` against their ``count`` rows of ``index`` from ``position`` on.

    Args:
        run: the bytes of the file from the offset of the first row on.
        seed: the CRC of the store id.

    Returns:
        ``(how many are whole, from the first on, what is wrong with the next or None)``.
    """
    cdef const uint8_t *rows = rows_at(index, position, count)
    cdef const uint8_t *start = &run[0] if run.shape[0] else NULL
    cdef uint64_t size = <uint64_t>run.shape[0], first_offset, offset
    cdef Py_ssize_t whole = 0
    cdef Verdict verdict = WHOLE
    cdef IndexRow row
    with nogil:
        memcpy(&row, rows, sizeof(row))
        first_offset = row.offset
        while whole < count:
            memcpy(&row, rows + whole * TABLE_INDEX_ROW_SIZE, sizeof(row))
            offset = row.offset - first_offset
            verdict = judge(start + offset, size - offset, &row, seed) if offset < size else HEADER_DAMAGED
            if verdict != WHOLE:
                break
            whole += 1
    return whole, DAMAGE[verdict]


cdef class BlockIndex:
    """The index of a table in the making, and the totals of its blocks: LSNs, count of entries, timestamps in Unix ms."""

    cdef readonly Py_ssize_t blocks
    cdef readonly uint64_t min_lsn, last_lsn, entries, min_timestamp, max_timestamp
    cdef uint8_t *_rows
    cdef Py_ssize_t _capacity

    def __cinit__(self):
        self.min_timestamp = UINT64_MAX

    def __dealloc__(self):
        free(self._rows)

    def __bytes__(self):
        return PyBytes_FromStringAndSize(<char *>self._rows, self.blocks * TABLE_INDEX_ROW_SIZE)

    def add_run(self, const uint8_t[::1] run not None, uint64_t offset):
        """Enter the blocks in ``run``, which were verified (or just made) and are written at ``offset`` of the table.

        Raises:
            ValueError: LSNs do not ascend, or the last block is not wholly in ``run``.
        """
        cdef const uint8_t *block = &run[0] if run.shape[0] else NULL
        cdef const uint8_t *end = block + run.shape[0]
        cdef uint64_t first_lsn = 0
        cdef bint ascending = True, grown = True
        cdef BlockHeader header
        with nogil:
            while <Py_ssize_t>TABLE_BLOCK_HEADER_SIZE <= end - block:
                memcpy(&header, block, sizeof(header))
                if header.stored_size > end - block - TABLE_BLOCK_HEADER_SIZE:
                    break
                first_lsn = header.first_lsn
                ascending = self.last_lsn < first_lsn <= UINT64_MAX - (header.entries - 1)
                grown = self.blocks < self._capacity or self._grow()
                if not (ascending and grown):
                    break
                self._add(&header, offset)
                block += TABLE_BLOCK_HEADER_SIZE + header.stored_size
                offset += TABLE_BLOCK_HEADER_SIZE + header.stored_size
        if not grown:
            raise MemoryError()
        if not ascending:
            raise ValueError(f"LSN {first_lsn} after {self.last_lsn}: not ascending")
        if block != end:
            raise ValueError(f"{end - block} bytes behind the last whole block")

    cdef void _add(self, const BlockHeader *header, uint64_t offset) noexcept nogil:
        cdef IndexRow row
        row.first_lsn = header.first_lsn
        row.entries = header.entries
        row.size = TABLE_BLOCK_HEADER_SIZE + header.stored_size
        row.offset = offset
        row.min_timestamp = header.min_timestamp
        row.max_timestamp = header.max_timestamp
        memcpy(self._rows + self.blocks * TABLE_INDEX_ROW_SIZE, &row, sizeof(row))
        self.blocks += 1
        self.min_lsn = self.min_lsn or header.first_lsn
        self.last_lsn = header.first_lsn + header.entries - 1
        self.entries += header.entries
        self.min_timestamp = min(self.min_timestamp, header.min_timestamp)
        self.max_timestamp = max(self.max_timestamp, header.max_timestamp)

    cdef bint _grow(self) noexcept nogil:
        cdef Py_ssize_t capacity = max(self._capacity * 2, 64)
        cdef void *rows = realloc(self._rows, capacity * TABLE_INDEX_ROW_SIZE)
        if rows == NULL:
            return False
        self._rows = <uint8_t *>rows
        self._capacity = capacity
        return True
