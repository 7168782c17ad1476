"""Records in memory: framing a group of them. What is done to each is inline, in the `.pxd`."""

from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from kifa._batch cimport EntryBatch
from kifa._layout cimport BLOCK_SIZE, FLAG_GROUP_END, FLAG_GROUP_START, RECORD_OVERHEAD, TYPE_ENTRY
from kifa._record cimport frame_record, seal_header


def frame_group(EntryBatch batch not None, list controls, uint64_t salt):
    """Return one whole group, padded, with the entries of ``batch`` and its control records.

    Those are (type, LSN, timestamp in ms, data), in order, and come behind the entry whose LSN they carry, or before the
    first. This is how recovery writes the last group again, in another segment.
    """
    cdef Py_ssize_t index
    cdef size_t size = 0
    cdef size_t last = 0
    cdef uint64_t lsn
    cdef uint8_t flags = FLAG_GROUP_START
    cdef bytes data
    cdef Py_ssize_t behind = 0
    assert batch.count, "a group without entries needs no second copy"
    for index in range(batch.count):
        size += RECORD_OVERHEAD + batch.lengths[index]
    size += sum(RECORD_OVERHEAD + len(item[3]) for item in controls)
    out = bytearray((size + BLOCK_SIZE - 1) // BLOCK_SIZE * BLOCK_SIZE)
    cdef uint8_t *base = <uint8_t *>PyByteArray_AS_STRING(out)
    size = 0
    for index in range(batch.count + 1):
        while behind < len(controls) and (
            index == batch.count or controls[behind][1] < batch.first_lsn + <uint64_t>index
        ):
            kind, lsn, timestamp_ms, data = controls[behind]
            behind += 1
            last = size
            size += frame_record(
                base + size, <const uint8_t *><char *>data, <uint32_t>len(data), flags, kind, lsn, timestamp_ms, salt
            )
            flags = 0
        if index < batch.count:
            last = size
            size += frame_record(
                base + size, batch.base + batch.offsets[index], batch.lengths[index], flags, TYPE_ENTRY,
                batch.first_lsn + <uint64_t>index, batch.timestamps[index], salt,
            )
            flags = 0
    base[last + 4] |= FLAG_GROUP_END
    seal_header(base + last, salt)
    return out
