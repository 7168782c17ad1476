"""Times as typed, against Python's own calendar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kifa.errors import UsageError
from kifa.timespec import parse_time

NOW = 1_769_884_200_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(9998, 12, 31))


def ms(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(milliseconds=1)


def both(text: str) -> tuple[int, int]:
    return parse_time(text, NOW, end=False), parse_time(text, NOW, end=True)


@given(MOMENTS, st.sampled_from([" ", "T"]), st.sampled_from(["", "Z", " UTC", "+00:00", "-0000"]))
def test_a_second_covers_its_second(moment: datetime, separator: str, zone: str) -> None:
    start = ms(moment.replace(microsecond=0, tzinfo=UTC))
    text = moment.isoformat(separator, "seconds") + zone
    assert both(text) == (start, start + 999)


@given(MOMENTS)
def test_a_minute_covers_its_minute(moment: datetime) -> None:
    start = ms(moment.replace(second=0, microsecond=0, tzinfo=UTC))
    assert both(moment.isoformat(" ", "minutes")) == (start, start + 59_999)


@given(MOMENTS)
def test_a_millisecond_is_itself(moment: datetime) -> None:
    start = ms(moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=UTC))
    assert both(moment.isoformat("T", "milliseconds")) == (start, start)


@given(st.dates(datetime(1970, 1, 1).date()))
def test_a_date_covers_its_day(day: datetime) -> None:
    start = ms(datetime(day.year, day.month, day.day, tzinfo=UTC))
    assert both(day.isoformat()) == (start, start + 86_399_999)


@given(MOMENTS, st.integers(-1439, 1439))
def test_an_offset_is_taken_off(moment: datetime, minutes: int) -> None:
    local = moment.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=minutes)))
    assert both(local.isoformat()) == (ms(local), ms(local) + 999)


@given(st.lists(st.tuples(st.integers(0, 50), st.sampled_from("wdhms")), min_size=1, max_size=4))
def test_relative_times_count_back_from_now(parts: list[tuple[int, str]]) -> None:
    names = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
    ago = sum((timedelta(**{names[unit]: count}) for count, unit in parts), timedelta())
    expected = NOW - ago // timedelta(milliseconds=1)
    text = "".join(f"{count}{unit}" for count, unit in parts)
    assert both(text) == (expected, expected)


def test_now_and_the_beginning_of_time() -> None:
    assert both("now") == (NOW, NOW)
    assert both(" 9999w ") == (0, 0)
    assert both("1970-01-01")[0] == 0


@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "1", "h", "1y", "-1h", "1h 30m", "12:00", "2026-1-2", "2026-13-01"),
        *("2026-02-30", "2026-01-01 24:00:00", "2026-01-01 12:60", "1969-12-31", "٢٠٢٦-01-01"),
        *("2026-01-01T12:00:00+25:00", "2026-01-01T12:00:00+01:60", "2026-01-01 12", "0000-01-01"),
        *("2026-01-01 00:00:00.1234", "2026-01-01Z", "2026-01-01\n12:00"),
    ],
)
def test_anything_else_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        both(text)
    assert repr(text.strip()) in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_a_usage_error(text: str) -> None:
    try:
        start, end = both(text)
    except UsageError:
        return
    assert 0 <= start <= end
