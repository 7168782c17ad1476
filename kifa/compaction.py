"""Size-tiered compaction: which tables to join, and joining them.

A table of tier t has threshold ** t times the unit, or a bit more. Neighbours are joined when at least ``threshold``
of them are of one tier, together with the smaller ones among them; the result is at least one tier higher, so an
entry is rewritten at most once per tier: O(log n) times (O'Neil et al., "The Log-Structured Merge-Tree", 1996, as
practised by the size-tiered strategy of Cassandra).

What is on disk if power goes between the steps:

    write output | sync, rename | publish manifest | delete inputs
    ^ inputs, a temporary file  ^ both; the output supersedes the inputs by its range ^ output, perhaps some inputs
"""

from __future__ import annotations

from collections.abc import Sequence

from kifa._typing import Protocol

TIER_UNIT_BYTES = 256 * 1024


class Sized(Protocol):
    """What is compared: anything with a size on disk."""

    @property
    def size_bytes(self) -> int: ...


def tier_of(size_bytes: int, threshold: int) -> int:
    """Return the tier of a table of ``size_bytes``."""
    tier = 0
    while size_bytes >= TIER_UNIT_BYTES * threshold:
        size_bytes //= threshold
        tier += 1
    return tier


def choose(tables: Sequence[Sized | None], threshold: int) -> slice | None:
    """Return which neighbours to join next, or None if nothing is due.

    Args:
        tables: all tables in LSN order; None for one that must be left alone (it is damaged).
        threshold: how many tables of one tier are joined, at least 2.
    """
    tiers = [None if table is None else tier_of(table.size_bytes, threshold) for table in tables]
    for tier in sorted({tier for tier in tiers if tier is not None}):
        start = 0
        for stop, this in enumerate([*tiers, None]):
            if this is None or this > tier:
                if tiers[start:stop].count(tier) >= threshold:
                    return slice(start, stop)
                start = stop + 1
    return None
