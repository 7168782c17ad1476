"""The merge against a model: sets of LSNs, some of them in several sources."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from kifa._batch import Entry, EntryBatch
from kifa._merge import MissingRange, merge
from kifa.errors import Damage
from kifa.sstable import SkippedRange
from kifa.sstable_format import MAX_U64
from tests.batches import batches_of


class SetSource:
    """A source with any set of LSNs; the data tells the source and the LSN."""

    def __init__(self, number: int, lsns: set[int], margin: int) -> None:
        self.lsns = sorted(lsns)
        self.min_lsn = max(self.lsns[0] - margin, 0)
        self.max_lsn = min(self.lsns[-1] + margin, MAX_U64)
        self._data = b"%d" % number

    def batches(
        self,
        from_lsn: int,
        to_lsn: int,
        *,
        from_time: int,
        to_time: int,
        reverse: bool,
        on_damage: Callable[[Damage], None] | None,
    ) -> Iterator[EntryBatch | SkippedRange]:
        chosen = [Entry(lsn, 0, self._data) for lsn in self.lsns if from_lsn <= lsn <= to_lsn]
        batches = batches_of(chosen, 3)
        return iter(batches[::-1] if reverse else batches)


LSN = st.one_of(st.integers(0, 20), st.integers(MAX_U64 - 9, MAX_U64))


@settings(max_examples=500, deadline=None)
@given(
    sets=st.lists(st.tuples(st.sets(LSN, min_size=1), st.integers(0, 3)), max_size=5),
    low=LSN,
    high=LSN,
    reverse=st.booleans(),
)
def test_every_lsn_once_from_the_preferred_source_that_has_it(
    sets: list[tuple[set[int], int]], low: int, high: int, reverse: bool
) -> None:
    sources = [SetSource(i, lsns, margin) for i, (lsns, margin) in enumerate(sets)]
    pieces = list(merge(sources, low, high, reverse=reverse))
    if low > high:
        assert pieces == []
        return
    if reverse:
        pieces.reverse()
    expected = low
    for piece in pieces:
        assert piece.first_lsn == expected
        assert piece.last_lsn >= piece.first_lsn
        expected = piece.last_lsn + 1
        if isinstance(piece, EntryBatch):
            for entry in piece:
                assert entry.lsn in sets[int(entry.data)][0]
        else:
            assert isinstance(piece, MissingRange)
            held = {lsn for lsns, _ in sets for lsn in lsns}
            assert not any(piece.first_lsn <= lsn <= piece.last_lsn for lsn in held)
    assert expected == high + 1


def test_the_first_source_is_preferred() -> None:
    sources = [SetSource(0, {2, 3, 5}, 0), SetSource(1, {1, 2, 3, 4, 5, 6}, 0)]
    pieces = list(merge(sources, 1, 6))
    taken = [
        int(entry.data) for piece in pieces if isinstance(piece, EntryBatch) for entry in piece
    ]
    assert taken == [1, 1, 1, 1, 1, 1]  # the one that holds LSN 1 is kept as long as it lasts
    pieces = list(merge(sources, 2, 6))
    taken = [
        int(entry.data) for piece in pieces if isinstance(piece, EntryBatch) for entry in piece
    ]
    assert taken == [0, 0, 1, 0, 1]
