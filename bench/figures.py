"""Medians, spreads and latency histograms."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median

# Each bucket is 1 % wider than the one before: a percentile is right to half a percent.
GROWTH = 1.01
LEAST_US = 0.1


class Histogram:
    """How many latencies fell into each bucket; rounds add up."""

    def __init__(self, buckets: Mapping[int, int] | None = None) -> None:
        self.buckets: Counter[int] = Counter(buckets or {})

    def add(self, seconds: Iterable[float]) -> None:
        """Count latencies, given in seconds."""
        self.buckets.update(bucket_of(value * 1e6) for value in seconds)

    @property
    def count(self) -> int:
        """How many latencies were added."""
        return self.buckets.total()

    def percentile_us(self, fraction: float) -> float:
        """Return the latency in microseconds that ``fraction`` of all do not exceed.

        Raises:
            ValueError: nothing was added, or the fraction is not in 0 to 1.
        """
        if not self.buckets or not 0 <= fraction <= 1:
            raise ValueError(f"no percentile {fraction} of {self.count} latencies")
        wanted = max(1, math.ceil(fraction * self.count))
        for bucket in sorted(self.buckets):
            wanted -= self.buckets[bucket]
            if wanted <= 0:
                break
        return latency_of(bucket)

    def to_json(self) -> list[list[int]]:
        """Return [bucket, count] pairs, ascending."""
        return [[bucket, self.buckets[bucket]] for bucket in sorted(self.buckets)]

    @classmethod
    def from_json(cls, pairs: Iterable[Sequence[int]]) -> Histogram:
        """Return what `to_json` described."""
        return cls({pair[0]: pair[1] for pair in pairs})


def bucket_of(latency_us: float) -> int:
    """Return the bucket that holds a latency of ``latency_us`` microseconds."""
    return max(0, math.floor(math.log(max(latency_us, LEAST_US) / LEAST_US, GROWTH)))


def latency_of(bucket: int) -> float:
    """Return the middle of a bucket in microseconds."""
    return float(LEAST_US * GROWTH ** (bucket + 0.5))


def spread_of(values: Sequence[float]) -> float:
    """Return the distance of the quartiles, as a part of the median: 0 where all rounds agree."""
    middle = median(values)
    if len(values) < 2 or middle == 0:
        return 0.0
    ordered = sorted(values)
    return (_quantile(ordered, 0.75) - _quantile(ordered, 0.25)) / abs(middle)


def _quantile(ordered: Sequence[float], fraction: float) -> float:
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)
