"""Which entries the options of ``query`` and ``export`` select."""

from __future__ import annotations

import time

from kifa._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kifa.query import Selection


def selection_of(
    from_lsn: int | None,
    to_lsn: int | None,
    from_time: str | None,
    to_time: str | None,
    limit: int | None,
    reverse: bool,
) -> Selection:
    """Return the selection that the options describe.

    Raises:
        UsageError: a time cannot be parsed, or a range is empty.
    """
    from kifa.query import Selection

    times = [
        None if text is None else _time_of(text, end)
        for text, end in ((from_time, False), (to_time, True))
    ]
    return Selection(from_lsn, to_lsn, times[0], times[1], limit, reverse)


def _time_of(text: str, end: bool) -> int:
    from kifa.timespec import parse_time  # most queries name no time

    return parse_time(text, time.time_ns() // 1_000_000, end=end)
