"""Percentiles and spreads, by their properties."""

from __future__ import annotations

import math
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.figures import GROWTH, Histogram, bucket_of, latency_of, spread_of

LATENCIES = st.lists(st.floats(1e-7, 100.0), min_size=1, max_size=200)
VALUES = st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=20)


@given(LATENCIES, st.floats(0, 1))
def test_a_percentile_is_the_ordered_value_to_half_a_percent(
    seconds: list[float], fraction: float
) -> None:
    histogram = Histogram()
    histogram.add(seconds)
    rank = max(1, math.ceil(fraction * len(seconds)))
    exact = sorted(seconds)[rank - 1] * 1e6
    assert histogram.percentile_us(fraction) == pytest.approx(exact, rel=GROWTH - 1)


@given(LATENCIES, LATENCIES)
def test_rounds_add_up(first: list[float], second: list[float]) -> None:
    apart, together = Histogram(), Histogram()
    apart.add(first)
    apart.add(second)
    together.add(first + second)
    assert apart.buckets == together.buckets
    assert apart.count == len(first) + len(second)


@given(LATENCIES)
def test_json_keeps_a_histogram(seconds: list[float]) -> None:
    histogram = Histogram()
    histogram.add(seconds)
    assert Histogram.from_json(histogram.to_json()).buckets == histogram.buckets


@given(st.integers(0, 3000))
def test_the_middle_of_a_bucket_is_in_it(bucket: int) -> None:
    assert bucket_of(latency_of(bucket)) == bucket


@pytest.mark.parametrize("fraction", [-0.1, 1.1])
def test_no_such_percentile(fraction: float) -> None:
    histogram = Histogram({1: 1})
    with pytest.raises(ValueError, match="percentile"):
        histogram.percentile_us(fraction)
    with pytest.raises(ValueError, match="percentile"):
        Histogram().percentile_us(0.5)


@given(VALUES, st.floats(0.01, 100))
def test_the_spread_does_not_depend_on_the_unit(values: list[float], factor: float) -> None:
    scaled = [value * factor for value in values]
    assert spread_of(scaled) == pytest.approx(spread_of(values), rel=1e-6, abs=1e-9)
    assert spread_of(values) >= 0


@given(st.floats(1e-3, 1e9), st.integers(1, 9))
def test_rounds_that_agree_have_no_spread(value: float, count: int) -> None:
    assert spread_of([value] * count) == 0


@given(VALUES.filter(lambda values: len(values) > 4))
def test_one_wild_round_is_not_a_spread(values: list[float]) -> None:
    calm = [100.0] * len(values)
    calm[0] = values[0]
    assert spread_of(calm) <= 0.5 * abs(values[0] - 100) / median(calm)
