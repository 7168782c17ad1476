from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef class EntryBatch:
    # Entries with consecutive LSNs; the data of entry i is base[offsets[i] .. offsets[i] + lengths[i]].
    cdef readonly uint64_t first_lsn
    cdef readonly Py_ssize_t count
    cdef const uint8_t *base
    cdef uint32_t *offsets
    cdef uint32_t *lengths
    cdef uint64_t *timestamps
    cdef object owner        # keeps `base` (and, for a slice, the arrays) alive
    cdef bint owns_arrays
    cdef Py_ssize_t capacity

    @staticmethod
    cdef EntryBatch allocate(Py_ssize_t capacity, const uint8_t *base, object owner)
