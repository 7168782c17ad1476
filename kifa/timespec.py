"""Times as people type them: ``now``, ``1h30m`` (ago), ``2026-01-29``, ``2026-01-29 12:00:00``.

A time stands for the whole of what it names: a date for its day, ``12:00`` for its minute, ``12:00:00`` for its
second. The start of a range takes the first millisecond of that, the end takes the last. Without an offset it is UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from kifa.errors import UsageError

_UNITS_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000}
_RELATIVE = re.compile(r"(?:\d+[wdhms])+")
_RELATIVE_PART = re.compile(r"(\d+)([wdhms])")
_ABSOLUTE = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,3}))?)?"
    r"(?: ?(Z|UTC|[+-]\d\d:?\d\d))?)?",
    re.ASCII,
)
_MAX_MS = 2**64 - 1
_EXAMPLES = "2026-01-29, '2026-01-29 12:00:00', 2026-01-29T12:00:00+03:00, 1h30m (ago) or now"


def parse_time(text: str, now_ms: int, *, end: bool) -> int:
    """Return the time that ``text`` names, in Unix ms.

    Args:
        text: what the user typed.
        now_ms: the present, in Unix ms.
        end: take the last millisecond of what is named instead of the first.

    Raises:
        UsageError: it is not a time, or before 1970.
    """
    text = text.strip()
    if text == "now":
        return now_ms
    if _RELATIVE.fullmatch(text):
        ago = sum(int(count) * _UNITS_MS[unit] for count, unit in _RELATIVE_PART.findall(text))
        return max(now_ms - ago, 0)
    match = _ABSOLUTE.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a time; write {_EXAMPLES}")
    try:
        first_ms, span_ms = _absolute(match)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{text!r} is not a time: {error}") from error
    time_ms = first_ms + span_ms - 1 if end else first_ms
    if not 0 <= time_ms <= _MAX_MS:
        raise UsageError(f"{text!r} is before 1970, when time begins for Kifa")
    return time_ms


def _absolute(match: re.Match[str]) -> tuple[int, int]:
    """Return the first millisecond of what was matched, and how many it spans."""
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    moment = datetime(
        int(year),
        int(month),
        int(day),
        int(hour or 0),
        int(minute or 0),
        int(second or 0),
        int((fraction or "0").ljust(3, "0")) * 1000,
        _zone(zone),
    )
    if hour is None:
        span_ms = _UNITS_MS["d"]
    elif second is None:
        span_ms = _UNITS_MS["m"]
    else:
        span_ms = 10 ** (3 - len(fraction or ""))
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1), span_ms


def _zone(zone: str | None) -> timezone:
    if zone in (None, "Z", "UTC"):
        return UTC
    assert zone is not None
    offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[-2:]))
    if int(zone[-2:]) > 59:
        raise ValueError(f"offset {zone} has more than 59 minutes")
    return timezone(-offset if zone[0] == "-" else offset)
