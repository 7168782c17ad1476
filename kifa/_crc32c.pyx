"""CRC-32C for the Python side of Kifa; compiled modules call ``_crc32c.h`` directly."""

from libc.stdint cimport uint8_t, uint32_t
from kifa._crc32c cimport crc32c_extend, crc32c_extend_by_table

crc32c_extend(0, NULL, 0)

cdef enum:
    LARGE_SIZE = 1 << 16  # takes some us: below, letting go of the interpreter's lock costs more


def crc32c(const uint8_t[::1] data not None, uint32_t seed=0):
    """Return the CRC-32C of ``data`` (any buffer), continued from ``seed``."""
    cdef const uint8_t *start = &data[0] if data.shape[0] else NULL
    if data.shape[0] < LARGE_SIZE:
        return crc32c_extend(seed, start, <size_t>data.shape[0])
    with nogil:
        seed = crc32c_extend(seed, start, <size_t>data.shape[0])
    return seed


def crc32c_by_table(const uint8_t[::1] data not None, uint32_t seed=0):
    """The same, always by the table that processors without the instruction use."""
    cdef const uint8_t *start = &data[0] if data.shape[0] else NULL
    return crc32c_extend_by_table(seed, start, <size_t>data.shape[0])
