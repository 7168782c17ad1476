"""Entries as text, JSON, CSV or hexadecimal, a line for each, built in one growing buffer without the interpreter's lock.

    text   [1] 2026-01-31 18:30:00 UTC {"txn":1}
    json   {"lsn":1,"timestamp":"2026-01-31 18:30:00 UTC","timestamp_ms":1769884200000,"data":"{\\"txn\\":1}"}
    csv    1,"2026-01-31 18:30:00 UTC",1769884200000,"{""txn"":1}"
    hex    0000000000000001 0000019c1551ac40 7b2274786e223a317d

Data that is not UTF-8: JSON has ``"data_b64"`` instead of ``"data"``; CSV has ``base64:`` and the base64 of the data
(text that itself starts with ``base64:`` is written in that way too, so that the mark is never ambiguous). Text has
the bytes as they are.
"""

import os

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno
from libc.stdint cimport UINT64_MAX, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy
from posix.unistd cimport write

from kifa._batch cimport EntryBatch

FORMATS = ("text", "json", "csv", "hex")
CSV_HEADER = b"lsn,timestamp,timestamp_ms,data\n"

cdef enum:
    TEXT
    JSON
    CSV
    HEX
    LINE_OVERHEAD = 256  # more than everything in a line but the data
    MAX_EXPANSION = 6  # a control character as \u0000 in JSON
    CALENDAR_SIZE = 32

cdef extern from "_escape.h" nogil:
    void prepare_quoting "kifa_prepare_quoting"() noexcept
    uint8_t *quote_json "kifa_quote_json"(const uint8_t *data, size_t size, uint8_t *out) noexcept
    uint8_t *quote_csv "kifa_quote_csv"(const uint8_t *data, size_t size, uint8_t *out) noexcept
    uint8_t *base64 "kifa_base64"(const uint8_t *data, size_t size, uint8_t *out) noexcept
    uint8_t *hexadecimal "kifa_hex"(const uint8_t *data, size_t size, uint8_t *out) noexcept
    uint8_t *hexadecimal_u64 "kifa_hex_u64"(uint64_t value, uint8_t *out) noexcept
    uint8_t *decimal "kifa_decimal"(uint64_t value, int width, uint8_t *out) noexcept
    uint8_t *calendar "kifa_calendar"(uint64_t seconds, uint8_t *out) noexcept


prepare_quoting()


cdef inline uint8_t *put(const char *text, size_t size, uint8_t *out) noexcept nogil:
    memcpy(out, text, size)
    return out + size


def format_timestamp(uint64_t timestamp_ms) -> str:
    """Return ``YYYY-MM-DD HH:MM:SS UTC`` for a timestamp in Unix ms."""
    cdef uint8_t text[CALENDAR_SIZE]
    cdef uint8_t *end = calendar(timestamp_ms // 1000, text)
    return (<const char *>text)[:end - text].decode("ascii")


cdef class Formatter:
    """Collects formatted entries; `write_to` or `take` empty it."""

    cdef int _format
    cdef uint8_t *_buffer
    cdef size_t _size, _capacity
    cdef uint64_t _second  # the one that `_calendar` shows
    cdef uint8_t _calendar[CALENDAR_SIZE]
    cdef size_t _calendar_size

    def __init__(self, format):
        """Start with an empty buffer; ``format`` is one of `FORMATS`. Raises ValueError."""
        if format not in FORMATS:
            raise ValueError(f"{format!r} is not one of {', '.join(FORMATS)}")
        self._format = FORMATS.index(format)
        self._second = UINT64_MAX

    def __dealloc__(self):
        free(self._buffer)

    @property
    def size(self) -> int:
        """Bytes collected."""
        return self._size

    def add(self, EntryBatch batch not None, bint reverse=False):
        """Append the lines of ``batch``, ascending or descending."""
        cdef Py_ssize_t i
        cdef bint enough = True
        with nogil:
            for i in range(batch.count):
                enough = self._append(batch, batch.count - 1 - i if reverse else i)
                if not enough:
                    break
        if not enough:
            raise MemoryError()

    cdef bint _append(self, EntryBatch batch, Py_ssize_t i) noexcept nogil:
        cdef size_t length = batch.lengths[i]
        cdef const uint8_t *data = batch.base + batch.offsets[i]
        cdef uint64_t lsn = batch.first_lsn + <uint64_t>i, timestamp = batch.timestamps[i]
        cdef uint8_t *out
        if not self._reserve(LINE_OVERHEAD + MAX_EXPANSION * length):
            return False
        out = self._buffer + self._size
        if timestamp // 1000 != self._second:
            self._second = timestamp // 1000
            self._calendar_size = calendar(self._second, self._calendar) - self._calendar
        if self._format == JSON:
            out = self._json(out, lsn, timestamp, data, length)
        elif self._format == CSV:
            out = self._csv(out, lsn, timestamp, data, length)
        elif self._format == HEX:
            out = put(" ", 1, hexadecimal_u64(lsn, out))
            out = put(" ", 1, hexadecimal_u64(timestamp, out))
            out = hexadecimal(data, length, out)
        else:
            out = put("] ", 2, decimal(lsn, 1, put("[", 1, out)))
            out = put(" ", 1, self._put_calendar(out))
            out = put(<const char *>data, length, out)
        self._size = put("\n", 1, out) - self._buffer
        return True

    cdef bint _reserve(self, size_t more) noexcept nogil:
        cdef uint8_t *larger
        cdef size_t capacity
        if self._capacity - self._size >= more:
            return True
        capacity = 2 * (self._size + more)
        larger = <uint8_t *>realloc(self._buffer, capacity)
        if larger == NULL:
            return False
        self._buffer = larger
        self._capacity = capacity
        return True

    cdef inline uint8_t *_put_calendar(self, uint8_t *out) noexcept nogil:
        memcpy(out, self._calendar, CALENDAR_SIZE)  # of fixed size, so that it is two moves
        return out + self._calendar_size

    cdef inline uint8_t *_json(
        self, uint8_t *out, uint64_t lsn, uint64_t timestamp, const uint8_t *data, size_t length
    ) noexcept nogil:
        cdef uint8_t *end
        out = put('{"lsn":', 7, out)
        out = put(',"timestamp":"', 14, decimal(lsn, 1, out))
        out = put('","timestamp_ms":', 17, self._put_calendar(out))
        out = put(',"data', 6, decimal(timestamp, 1, out))
        end = quote_json(data, length, put('":"', 3, out))
        if end == NULL:
            end = base64(data, length, put('_b64":"', 7, out))
        return put('"}', 2, end)

    cdef inline uint8_t *_csv(
        self, uint8_t *out, uint64_t lsn, uint64_t timestamp, const uint8_t *data, size_t length
    ) noexcept nogil:
        cdef uint8_t *end = NULL
        out = put(',"', 2, decimal(lsn, 1, out))
        out = put('",', 2, self._put_calendar(out))
        out = put(',"', 2, decimal(timestamp, 1, out))
        if length < 7 or memcmp(data, b"base64:", 7) != 0:
            end = quote_csv(data, length, out)
        if end == NULL:
            end = base64(data, length, put("base64:", 7, out))
        return put('"', 1, end)

    def take(self) -> bytes:
        """Return what was collected, and start anew."""
        result = PyBytes_FromStringAndSize(<const char *>self._buffer, self._size)
        self._size = 0
        return result

    def write_to(self, int descriptor):
        """Write what was collected to ``descriptor``, and start anew, also where that fails.

        Raises:
            OSError: a write failed; some of it may have been written.
        """
        cdef size_t done = 0
        cdef size_t size = self._size
        cdef ssize_t written
        cdef int error
        self._size = 0
        while done < size:
            with nogil:
                written = write(descriptor, self._buffer + done, size - done)
                error = errno
            if written >= 0:
                done += <size_t>written
            elif error != EINTR:
                raise OSError(error, os.strerror(error))
            if done < size:  # a signal also cuts a write short
                PyErr_CheckSignals()
