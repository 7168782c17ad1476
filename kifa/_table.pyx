"""The columns of a sorted table's block (docs/FORMAT.md, "Block"): packing, unpacking, and searching the index.

Each call handles one block (or the whole index) without the interpreter's lock; no Python object exists per entry.
"""

from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from kifa._batch cimport EntryBatch
from kifa._blocks cimport BlockHeader, header_crc
from kifa._crc32c cimport crc32c_extend
from kifa._layout cimport (
    CODEC_NONE, CODEC_ZSTD, MAX_ENTRY_SIZE, TABLE_BLOCK_HEADER_SIZE, TABLE_BLOCK_MAGIC,
    TABLE_BLOCK_TARGET_SIZE, TABLE_INDEX_ROW_SIZE,
)
from kifa._record cimport load_u32, load_u64

cdef enum:
    ENTRY_COST = 4  # what an entry adds to a block beside its data, about; bounds blocks of empty entries
    MAX_VARINT = 10


cdef extern from *:
    """
    static inline uint64_t kifa_zigzag(uint64_t value) { return (value << 1) ^ (0 - (value >> 63)); }
    static inline uint64_t kifa_unzigzag(uint64_t value) { return (value >> 1) ^ (0 - (value & 1)); }
    """
    uint64_t zigzag "kifa_zigzag"(uint64_t value) noexcept nogil
    uint64_t unzigzag "kifa_unzigzag"(uint64_t value) noexcept nogil


cdef inline uint8_t *put_varint(uint8_t *out, uint64_t value) noexcept nogil:
    while value >= 128:
        out[0] = <uint8_t>(value | 128)
        out += 1
        value >>= 7
    out[0] = <uint8_t>value
    return out + 1


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


cdef class BlockPacker:
    """Collects consecutive entries until a block is full, across the boundaries of batches; seals blocks into a run.

    For each block: `add` until it takes no more, `payload`, `seal`. What `payload` and `take_run` return is memory of
    this object, which the next `add` or `seal` changes.
    """

    cdef readonly uint64_t data_bytes  # of the entries in all sealed blocks
    cdef Py_ssize_t _target_size, _run_size, _count, _data_size, _columns_size, _filled
    cdef Py_ssize_t _entry_capacity, _columns_capacity
    cdef uint64_t _first_lsn, _min_timestamp, _max_timestamp
    cdef uint8_t *_columns
    cdef uint8_t *_payload  # room for columns, then data: the columns are moved to where the data starts
    cdef uint8_t *_data
    cdef uint8_t *_run
    cdef uint32_t *_lengths
    cdef uint64_t *_timestamps

    def __cinit__(self, Py_ssize_t run_size, Py_ssize_t target_size=TABLE_BLOCK_TARGET_SIZE):
        """A run is full with ``run_size`` bytes or more, a block with ``target_size`` or one larger entry."""
        self._target_size = target_size
        self._run_size = run_size
        self._entry_capacity = target_size // ENTRY_COST + 1
        self._columns_capacity = self._entry_capacity * 2 * MAX_VARINT
        payload_capacity = self._columns_capacity + target_size + MAX_ENTRY_SIZE
        self._columns = <uint8_t *>malloc(self._columns_capacity)
        self._payload = <uint8_t *>malloc(payload_capacity)
        self._run = <uint8_t *>malloc(run_size + TABLE_BLOCK_HEADER_SIZE + payload_capacity)
        self._lengths = <uint32_t *>malloc(self._entry_capacity * sizeof(uint32_t))
        self._timestamps = <uint64_t *>malloc(self._entry_capacity * sizeof(uint64_t))
        if not (self._columns and self._payload and self._run and self._lengths and self._timestamps):
            raise MemoryError()
        self._data = self._payload + self._columns_capacity

    def __dealloc__(self):
        free(self._columns)
        free(self._payload)
        free(self._run)
        free(self._lengths)
        free(self._timestamps)

    def __len__(self):
        return self._count

    def add(self, EntryBatch batch not None, Py_ssize_t start):
        """Take entries of ``batch`` from ``start`` on, as many as fit and follow what is already there.

        Returns:
            The number taken. Fewer than there are: the block must be sealed first. An empty block takes at least one.
        """
        cdef Py_ssize_t taken = 0
        if not 0 <= start <= batch.count:
            raise IndexError(start)
        if self._count and batch.first_lsn + <uint64_t>start != self._first_lsn + <uint64_t>self._count:
            return 0
        with nogil:
            if self._count == 0:
                self._first_lsn = batch.first_lsn + <uint64_t>start
            while start + taken < batch.count and self._append(batch, start + taken):
                taken += 1
            if start + taken < batch.count:
                self._pack_columns()
        return taken

    cdef inline bint _append(self, EntryBatch batch, Py_ssize_t index) noexcept nogil:
        cdef uint32_t length = batch.lengths[index]
        cdef Py_ssize_t size = self._data_size + (self._count + 1) * ENTRY_COST + length
        if self._count and size > self._target_size:
            return False
        memcpy(self._data + self._data_size, batch.base + batch.offsets[index], length)
        self._lengths[self._count] = length
        self._timestamps[self._count] = batch.timestamps[index]
        self._data_size += length
        self._count += 1
        return True

    cdef void _pack_columns(self) noexcept nogil:
        cdef uint64_t low = UINT64_MAX, high = 0, previous
        cdef Py_ssize_t i
        cdef uint8_t *out = self._columns
        for i in range(self._count):
            low = min(low, self._timestamps[i])
            high = max(high, self._timestamps[i])
        previous = low
        for i in range(self._count):
            out = put_varint(out, zigzag(self._timestamps[i] - previous))
            previous = self._timestamps[i]
        for i in range(self._count):
            out = put_varint(out, self._lengths[i])
        self._columns_size = out - self._columns
        self._min_timestamp = low
        self._max_timestamp = high
        memcpy(self._data - self._columns_size, self._columns, self._columns_size)

    def payload(self):
        """Return the raw payload of the block, as a `memoryview`."""
        if self._columns_size == 0:
            self._pack_columns()
        return PyMemoryView_FromMemory(
            <char *>self._data - self._columns_size, self._columns_size + self._data_size, PyBUF_READ
        )

    def seal(self, bytes compressed not None, uint32_t seed):
        """Put the block behind those of the run, and begin the next.

        Args:
            compressed: its `payload`, compressed; where that is no smaller, it is stored as it is.
            seed: the CRC of the store id.

        Returns:
            Whether the run is full: it must be taken first.
        """
        cdef Py_ssize_t stored_size = len(compressed), raw_size = self._columns_size + self._data_size
        cdef const uint8_t *stored = <const uint8_t *>PyBytes_AS_STRING(compressed)
        cdef uint8_t codec = CODEC_ZSTD
        assert self._columns_size and self._filled < self._run_size
        if stored_size >= raw_size:
            stored, stored_size, codec = self._data - self._columns_size, raw_size, CODEC_NONE
        if stored_size <= TABLE_BLOCK_TARGET_SIZE:  # some us: waiting to have the lock again takes longer
            self._seal(stored, stored_size, codec, seed)
        else:
            with nogil:
                self._seal(stored, stored_size, codec, seed)
        return self._filled >= self._run_size

    cdef void _seal(self, const uint8_t *stored, Py_ssize_t size, uint8_t codec, uint32_t seed) noexcept nogil:
        cdef BlockHeader header
        memset(&header, 0, sizeof(header))
        header.magic = TABLE_BLOCK_MAGIC
        header.first_lsn = self._first_lsn
        header.entries = <uint32_t>self._count
        header.codec = codec
        header.stored_size = <uint32_t>size
        header.raw_size = <uint32_t>(self._columns_size + self._data_size)
        header.min_timestamp = self._min_timestamp
        header.max_timestamp = self._max_timestamp
        header.payload_crc = crc32c_extend(seed, stored, size)
        header.crc = header_crc(&header, seed)
        memcpy(self._run + self._filled, &header, sizeof(header))
        memcpy(self._run + self._filled + sizeof(header), stored, size)
        self._filled += sizeof(header) + size
        self.data_bytes += self._data_size
        self._count = self._data_size = self._columns_size = 0

    def take_run(self):
        """Return the sealed blocks, as a `memoryview`, and begin the next run."""
        run = PyMemoryView_FromMemory(<char *>self._run, self._filled, PyBUF_READ)
        self._filled = 0
        return run


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


