"""Packing entries into the blocks of a sorted table (docs/FORMAT.md, "Block"), a run of them at a time.

A run of blocks is filled, compressed and sealed in one call without the interpreter's lock. Whoever takes and gives
the lock for each block has every thread that appends wait for it, again and again: its wake-up takes longer than
what a block needs the lock for.
"""

from cpython.buffer cimport PyBUF_READ
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stddef cimport size_t
from libc.stdint cimport UINT64_MAX, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from kifa._batch cimport EntryBatch
from kifa._blocks cimport BlockHeader, header_crc
from kifa._crc32c cimport crc32c_extend
from kifa._layout cimport (
    CODEC_NONE, CODEC_ZSTD, MAX_ENTRY_SIZE, TABLE_BLOCK_HEADER_SIZE, TABLE_BLOCK_MAGIC, TABLE_BLOCK_TARGET_SIZE,
)

cdef enum:
    ENTRY_COST = 4  # what an entry adds to a block beside its data, about; bounds blocks of empty entries
    MAX_VARINT = 10


cdef extern from "<dlfcn.h>":
    enum:
        RTLD_NOW
        RTLD_NOLOAD
    void *dlopen(const char *path, int mode)
    void *dlsym(void *library, const char *name)
    int dlclose(void *library)


cdef extern from *:
    """
    static inline uint64_t kifa_zigzag(uint64_t value) { return (value << 1) ^ (0 - (value >> 63)); }

    /* Of zstd's stable interface, as it has been since its version 1.0. */
    typedef void *(*kifa_zstd_create)(void);
    typedef size_t (*kifa_zstd_free)(void *);
    typedef size_t (*kifa_zstd_compress)(void *, void *, size_t, const void *, size_t, int);
    typedef unsigned (*kifa_zstd_is_error)(size_t);
    """
    uint64_t zigzag "kifa_zigzag"(uint64_t value) noexcept nogil
    ctypedef void *(*zstd_create "kifa_zstd_create")() noexcept nogil
    ctypedef size_t (*zstd_free "kifa_zstd_free")(void *) noexcept nogil
    ctypedef size_t (*zstd_compress "kifa_zstd_compress")(
        void *, void *, size_t, const void *, size_t, int
    ) noexcept nogil
    ctypedef unsigned int (*zstd_is_error "kifa_zstd_is_error")(size_t) noexcept nogil


cdef class Compressor:
    """zstd, of the library that Python's own module for it has loaded.

    Where that does not show its functions, the module compresses, for which each block takes the interpreter's lock.
    """

    cdef int _level
    cdef void *_context
    cdef zstd_free _free
    cdef zstd_compress _compress
    cdef zstd_is_error _is_error
    cdef object _compressor

    def __cinit__(self, int level):
        from kifa import zstd  # 5 ms that a reader of an empty store need not pay

        self._level = level
        if zstd.LIBRARY_PATH is not None:
            self._look_up(zstd.LIBRARY_PATH.encode())
        if self._context == NULL:
            self._compressor = zstd.ZstdCompressor(level=level)

    cdef void _look_up(self, bytes path):
        cdef zstd_create create
        cdef void *library = dlopen(PyBytes_AS_STRING(path), RTLD_NOW | RTLD_NOLOAD)
        if library == NULL:
            return
        create = <zstd_create>dlsym(library, "ZSTD_createCCtx")
        self._free = <zstd_free>dlsym(library, "ZSTD_freeCCtx")
        self._compress = <zstd_compress>dlsym(library, "ZSTD_compressCCtx")
        self._is_error = <zstd_is_error>dlsym(library, "ZSTD_isError")
        dlclose(library)  # Python keeps it
        if create and self._free and self._compress and self._is_error:
            self._context = create()

    def __dealloc__(self):
        if self._context != NULL:
            self._free(self._context)

    @property
    def needs_interpreter(self) -> bool:
        """Whether it is the module that compresses."""
        return self._context == NULL

    cdef Py_ssize_t compress(
        self, uint8_t *out, Py_ssize_t capacity, const uint8_t *data, Py_ssize_t size
    ) except -1 nogil:
        """Write ``data`` as one frame to ``out``; return its size, or 0 where that would be more than ``capacity``."""
        cdef size_t written
        if self._context == NULL:
            with gil:
                return self._compress_by_module(out, capacity, data, size)
        written = self._compress(self._context, out, <size_t>capacity, data, <size_t>size, self._level)
        return 0 if self._is_error(written) else <Py_ssize_t>written

    cdef Py_ssize_t _compress_by_module(
        self, uint8_t *out, Py_ssize_t capacity, const uint8_t *data, Py_ssize_t size
    ) except -1:
        view = PyMemoryView_FromMemory(<char *>data, size, PyBUF_READ)
        cdef bytes frame = self._compressor.compress(view, self._compressor.FLUSH_FRAME)
        if len(frame) > capacity:
            return 0
        memcpy(out, PyBytes_AS_STRING(frame), len(frame))
        return len(frame)


cdef class BlockPacker:
    """Collects consecutive entries until a block is full, across the boundaries of batches; seals blocks into a run.

    `add` all there is, and `take_run` whenever that took less; then `finish`, and `take_run`.
    """

    cdef readonly uint64_t data_bytes  # of the entries in all sealed blocks
    cdef Py_ssize_t _target_size, _run_size, _run_capacity, _count, _data_size, _columns_size, _filled
    cdef Py_ssize_t _entry_capacity, _columns_capacity
    cdef uint64_t _first_lsn, _min_timestamp, _max_timestamp
    cdef uint32_t _seed
    cdef Compressor _compressor
    cdef uint8_t *_columns
    cdef uint8_t *_payload  # room for columns, then data: the columns are moved to where the data starts
    cdef uint8_t *_data
    cdef bytearray _run_owner
    cdef uint8_t *_run
    cdef uint32_t *_lengths
    cdef uint64_t *_timestamps

    def __cinit__(
        self,
        Compressor compressor not None,
        uint32_t seed,
        Py_ssize_t run_size,
        Py_ssize_t target_size=TABLE_BLOCK_TARGET_SIZE,
    ):
        """A run is full with ``run_size`` bytes or more, a block with ``target_size`` or one larger entry.

        Args:
            seed: the CRC of the store id.
        """
        self._compressor = compressor
        self._seed = seed
        self._target_size = target_size
        self._run_size = run_size
        self._entry_capacity = target_size // ENTRY_COST + 1
        self._columns_capacity = self._entry_capacity * 2 * MAX_VARINT
        payload_capacity = self._columns_capacity + target_size + MAX_ENTRY_SIZE
        self._run_capacity = run_size + TABLE_BLOCK_HEADER_SIZE + payload_capacity
        self._columns = <uint8_t *>malloc(self._columns_capacity)
        self._payload = <uint8_t *>malloc(payload_capacity)
        self._lengths = <uint32_t *>malloc(self._entry_capacity * sizeof(uint32_t))
        self._timestamps = <uint64_t *>malloc(self._entry_capacity * sizeof(uint64_t))
        if not (self._columns and self._payload and self._lengths and self._timestamps):
            raise MemoryError()
        self._data = self._payload + self._columns_capacity
        self._begin_run()

    def __dealloc__(self):
        free(self._columns)
        free(self._payload)
        free(self._lengths)
        free(self._timestamps)

    cdef int _begin_run(self) except -1:
        self._run_owner = PyByteArray_FromStringAndSize(NULL, self._run_capacity)
        self._run = <uint8_t *>PyByteArray_AS_STRING(self._run_owner)
        self._filled = 0
        return 0

    def add(self, EntryBatch batch not None, Py_ssize_t start):
        """Take entries of ``batch`` from ``start`` on, until the run is full.

        Returns:
            The number taken. Fewer than there are: the run must be taken first.
        """
        cdef Py_ssize_t index = start
        if not 0 <= start <= batch.count:
            raise IndexError(start)
        with nogil:
            if index < batch.count and not self._follows(batch, index):
                self._seal()
            while index < batch.count and self._filled < self._run_size:
                if self._count == 0:
                    self._first_lsn = batch.first_lsn + <uint64_t>index
                while index < batch.count and self._append(batch, index):
                    index += 1
                if index < batch.count:
                    self._seal()
        return index - start

    def finish(self):
        """Seal the last block."""
        with nogil:
            if self._count:
                self._seal()

    def take_run(self):
        """Return the sealed blocks, as a `memoryview`, and begin the next run."""
        run = memoryview(self._run_owner)[:self._filled]
        self._begin_run()
        return run

    cdef inline bint _follows(self, EntryBatch batch, Py_ssize_t index) noexcept nogil:
        return self._count == 0 or batch.first_lsn + <uint64_t>index == self._first_lsn + <uint64_t>self._count

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

    cdef int _seal(self) except -1 nogil:
        """Put the block behind those of the run, and begin the next. What does not shrink is stored as it is."""
        cdef BlockHeader header
        cdef uint8_t *stored = self._run + self._filled + sizeof(header)
        cdef Py_ssize_t raw_size, size
        self._pack_columns()
        raw_size = self._columns_size + self._data_size
        size = self._compressor.compress(stored, raw_size - 1, self._data - self._columns_size, raw_size)
        memset(&header, 0, sizeof(header))
        header.codec = CODEC_ZSTD
        if size == 0:
            memcpy(stored, self._data - self._columns_size, raw_size)
            header.codec, size = CODEC_NONE, raw_size
        header.magic = TABLE_BLOCK_MAGIC
        header.first_lsn = self._first_lsn
        header.entries = <uint32_t>self._count
        header.stored_size = <uint32_t>size
        header.raw_size = <uint32_t>raw_size
        header.min_timestamp = self._min_timestamp
        header.max_timestamp = self._max_timestamp
        header.payload_crc = crc32c_extend(self._seed, stored, size)
        header.crc = header_crc(&header, self._seed)
        memcpy(self._run + self._filled, &header, sizeof(header))
        self._filled += sizeof(header) + size
        self.data_bytes += self._data_size
        self._count = self._data_size = 0
        return 0


cdef inline uint8_t *put_varint(uint8_t *out, uint64_t value) noexcept nogil:
    while value >= 128:
        out[0] = <uint8_t>(value | 128)
        out += 1
        value >>= 7
    out[0] = <uint8_t>value
    return out + 1
