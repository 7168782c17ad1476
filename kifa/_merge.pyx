"""Reading a range of the log out of many files: every LSN once, in order, and every LSN that no file has is named.

A *source* has ``min_lsn``, ``max_lsn`` and ``batches(from_lsn, to_lsn, from_time, to_time, reverse, on_damage)``,
which yields pieces: anything with ``first_lsn`` and ``last_lsn``, in order and disjoint.
"""

from libc.stdint cimport uint64_t


cdef class MissingRange:
    """LSNs, both inclusive, that no source has."""

    cdef readonly uint64_t first_lsn
    cdef readonly uint64_t last_lsn

    def __init__(self, uint64_t first_lsn, uint64_t last_lsn):
        self.first_lsn = first_lsn
        self.last_lsn = last_lsn

    def __repr__(self):
        return f"MissingRange({self.first_lsn}, {self.last_lsn})"


def merge(sources, uint64_t from_lsn, uint64_t to_lsn, *, uint64_t from_time=0, to_time=None, bint reverse=False,
          on_damage=None):
    """Yield pieces that together cover ``from_lsn`` to ``to_lsn`` (inclusive), each LSN once.

    Args:
        sources: in order of preference where several have an LSN. What the preferred one has lost is taken from the
            next that still has it.
        from_time, to_time: handed to the sources, which may leave out what a time range (Unix ms) rules out.
        reverse: from ``to_lsn`` down; the entries within a piece stay in ascending order.
        on_damage: handed to the sources.
    """
    options = {
        "from_time": from_time,
        "to_time": 2**64 - 1 if to_time is None else to_time,
        "reverse": reverse,
        "on_damage": on_damage,
    }
    if from_lsn <= to_lsn:
        yield from (_descend if reverse else _ascend)(list(sources), from_lsn, to_lsn, options)


def _ascend(list sources, uint64_t low, uint64_t high, dict options):
    cdef uint64_t start, end, first, last
    cdef bint done = False, whole
    while not done:
        source = _source_with(sources, low)
        if source is None:
            starts = [other.min_lsn for other in sources if low < other.min_lsn <= high]
            end = min(starts) - 1 if starts else high
            yield MissingRange(low, end)
        else:
            end = min(<uint64_t>source.max_lsn, high)
            others = [other for other in sources if other is not source]
            start = low
            whole = False
            for piece in source.batches(low, end, **options):
                first, last = piece.first_lsn, piece.last_lsn
                if first > start:
                    yield from _ascend(others, start, first - 1, options)
                yield piece
                whole = last >= end  # `start` may wrap around behind the highest LSN there is
                start = last + 1
            if not whole:
                yield from _ascend(others, start, end, options)
        done = end >= high
        low = end + 1


def _descend(list sources, uint64_t low, uint64_t high, dict options):
    cdef uint64_t end, start, first, last
    cdef bint done = False, whole
    while not done:
        source = _source_with(sources, high)
        if source is None:
            ends = [other.max_lsn for other in sources if low <= other.max_lsn < high]
            start = max(ends) + 1 if ends else low
            yield MissingRange(start, high)
        else:
            start = max(<uint64_t>source.min_lsn, low)
            others = [other for other in sources if other is not source]
            end = high
            whole = False
            for piece in source.batches(start, high, **options):
                first, last = piece.first_lsn, piece.last_lsn
                if last < end:
                    yield from _descend(others, last + 1, end, options)
                yield piece
                whole = first <= start
                end = first - 1
            if not whole:
                yield from _descend(others, start, end, options)
        done = start <= low
        high = start - 1


cdef _source_with(list sources, uint64_t lsn):
    for source in sources:
        if source.min_lsn <= lsn <= source.max_lsn:
            return source
    return None
