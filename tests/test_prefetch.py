"""An iterator in a thread of its own behaves like the iterator."""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kifa.prefetch import CHUNK_ITEMS, CHUNKS_AHEAD, prefetched


def threads() -> int:
    return sum(thread.name == "kifa-prefetch" for thread in threading.enumerate())


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 100), fails=st.booleans())
def test_items_and_the_error_behind_them(count: int, fails: bool) -> None:
    def source() -> Generator[int, None, None]:
        yield from range(count)
        if fails:
            raise LookupError("the end")

    found: list[int] = []
    try:
        for item in prefetched(source()):
            found.append(item)
    except LookupError:
        assert fails
    else:
        assert not fails
    assert found == list(range(count))
    assert threads() == 0


@pytest.mark.parametrize("taken", [1, 5, 50])
def test_leaving_early_closes_the_source(taken: int) -> None:
    produced, closed = [], threading.Event()

    def source() -> Generator[int, None, None]:
        try:
            for number in range(10_000):
                produced.append(number)
                yield number
        finally:
            closed.set()

    items = prefetched(source())
    for expected in range(taken):
        assert next(items) == expected
    items.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert threads() == 0
    assert len(produced) <= taken + CHUNK_ITEMS * (CHUNKS_AHEAD + 4)
