"""Reading a store beside its writer: no lock, nothing created, memory that does not grow with the store."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

from kifa._batch import Entry, EntryBatch
from kifa._merge import MissingRange, merge
from kifa._typing import TYPE_CHECKING, Any
from kifa.errors import Damage, DamagedError, KifaError, UsageError
from kifa.fs import require_store
from kifa.segments import SegmentChanged
from kifa.snapshot import MAX_ATTEMPTS, LogDamagedError, Snapshot, add_range, explain_missing

if TYPE_CHECKING:
    from kifa.stats import StoreStats
    from kifa.verify import VerifyReport

MAX_U64 = 2**64 - 1


class Selection:
    """Which entries to read; all bounds are inclusive, times in Unix ms, None for no bound."""

    def __init__(
        self,
        from_lsn: int | None = None,
        to_lsn: int | None = None,
        from_time: int | None = None,
        to_time: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> None:
        """Select entries.

        Raises:
            UsageError: a range is empty or out of bounds.
        """
        self.from_lsn = from_lsn
        self.to_lsn = to_lsn
        self.from_time = from_time
        self.to_time = to_time
        self.limit = limit
        self.reverse = reverse
        for name, low, high in (
            ("LSN", self.from_lsn, self.to_lsn),
            ("time", self.from_time, self.to_time),
        ):
            if low is not None and high is not None and low > high:
                raise UsageError(f"the {name} range is empty: it starts at {low}, ends at {high}")
        for value in (self.from_lsn, self.to_lsn, self.from_time, self.to_time, self.limit):
            if value is not None and not 0 <= value <= MAX_U64:
                raise UsageError(f"{value} is out of range: 0 to {MAX_U64}")

    def but(self, **changes: Any) -> Selection:
        """Return the same selection with other values for some of its arguments."""
        return Selection(**{**vars(self), **changes})


class Progress:
    """What is still to be read of a selection, and what turned out to be missing."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.low = max(selection.from_lsn or 1, 1)
        self.high = MAX_U64 if selection.to_lsn is None else selection.to_lsn
        self.left = selection.limit
        self.missing: list[tuple[int, int]] = []
        self.known: list[Damage] = []
        self._from_time = selection.from_time or 0
        self._to_time = MAX_U64 if selection.to_time is None else selection.to_time
        self._any_time = selection.from_time is None and selection.to_time is None

    @property
    def done(self) -> bool:
        """Whether nothing is left to be read."""
        return self.low > self.high or self.left == 0

    def bound(self, snapshot: Snapshot) -> None:
        """End where the log ends now; note what may have been lost behind that."""
        for damage in snapshot.damage_behind_the_end():
            first, last = damage.first_lsn or 0, damage.last_lsn or MAX_U64
            if first <= self.high and last >= self.low:
                self.known.append(damage)
                self.missing.append((max(first, self.low), min(last, self.high)))
        self.high = min(self.high, snapshot.end_lsn)

    def step_over(self, first_lsn: int, last_lsn: int) -> None:
        """Go on behind these."""
        if self.selection.reverse:
            self.high = first_lsn - 1
        else:
            self.low = last_lsn + 1

    def select(self, batch: EntryBatch) -> Iterator[EntryBatch]:
        """Yield what is selected of ``batch``, which is all of the LSNs wanted, and step over it."""
        reverse = self.selection.reverse
        any_time = self._any_time
        runs = [batch] if any_time else batch.within_time(self._from_time, self._to_time)
        for run in reversed(runs) if reverse else runs:
            part = self._take(run)
            self.step_over(part.first_lsn, part.last_lsn)
            yield part
            if self.left == 0:
                return
        self.step_over(batch.first_lsn, batch.last_lsn)

    def _take(self, batch: EntryBatch) -> EntryBatch:
        """Return as much of ``batch`` as the limit allows."""
        if self.left is not None:
            if len(batch) > self.left:
                count = len(batch)
                reverse = self.selection.reverse
                part = slice(count - self.left, count) if reverse else slice(0, self.left)
                batch = batch.slice(part.start, part.stop)
            self.left -= len(batch)
        return batch


class Reader:
    """Reads a store; `kifa.reader` is this class. Each call sees the store as it is at that moment."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Look for a store at ``path``.

        Raises:
            NotAStoreError: there is none. Nothing is created.
        """
        self.path = Path(path)
        require_store(self.path)

    def entries(
        self,
        from_lsn: int | None = None,
        to_lsn: int | None = None,
        from_time: int | None = None,
        to_time: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Iterator[Entry]:
        """Yield entries one by one, lazily.

        Args:
            from_lsn, to_lsn: both inclusive.
            from_time, to_time: Unix ms, both inclusive.
            limit: at most so many.
            reverse: newest LSN first.

        Raises:
            UsageError: a range is empty or out of bounds.
            DamagedError: after everything else was yielded: some LSNs of the range are lost.
        """
        selection = Selection(from_lsn, to_lsn, from_time, to_time, limit, reverse)
        return self._entries(selection)

    def _entries(self, selection: Selection) -> Iterator[Entry]:
        for batch in self.batches(selection):
            if selection.reverse:
                for index in range(len(batch) - 1, -1, -1):
                    yield batch.entry(index)
            else:
                yield from batch

    def batches(self, selection: Selection) -> Generator[EntryBatch, None, None]:
        """Yield the selected entries as batches, in the order selected; entries in a batch ascend.

        Raises:
            DamagedError: after everything else was yielded: some LSNs of the range are lost.
        """
        yield from self.read_on(Progress(selection))

    def read_on(self, progress: Progress) -> Generator[EntryBatch, None, None]:
        """Yield what is left of a selection, as far as the log reaches now, and note in ``progress`` where that is.

        Raises:
            DamagedError: as `batches`.
        """
        first_look = lazily = True
        attempts = 0
        while not progress.done:
            with Snapshot.take(self.path, lazily=lazily) as snapshot:
                if first_look:
                    progress.bound(snapshot)
                    first_look = False
                position = progress.low, progress.high
                try:
                    yield from self._read(snapshot, progress)
                except (SegmentChanged, FileNotFoundError) as error:
                    # recycled or replaced meanwhile, or damaged: go on from here in a new snapshot
                    lazily = lazily and not isinstance(error, LogDamagedError)
                    attempts = attempts + 1 if position == (progress.low, progress.high) else 0
                    if attempts == MAX_ATTEMPTS:
                        message = f"{error} changes faster than it can be read; try again"
                        raise KifaError(message, lsn=progress.low) from error
                finally:
                    progress.known += snapshot.causes()
        if progress.missing:
            damage_found = explain_missing(progress.missing, dict.fromkeys(progress.known))
            raise DamagedError(_summary(damage_found), damage_found)

    def _read(self, snapshot: Snapshot, progress: Progress) -> Iterator[EntryBatch]:
        selection = progress.selection
        pieces = merge(
            snapshot.sources(),
            progress.low,
            progress.high,
            from_time=selection.from_time or 0,
            to_time=MAX_U64 if selection.to_time is None else selection.to_time,
            reverse=selection.reverse,
            on_damage=progress.known.append,
        )
        for piece in pieces:
            if isinstance(piece, EntryBatch):
                yield from progress.select(piece)
                if progress.left == 0:
                    return
                continue
            if isinstance(piece, MissingRange):
                add_range(progress.missing, piece.first_lsn, piece.last_lsn)
            progress.step_over(piece.first_lsn, piece.last_lsn)

    def get(self, lsn: int) -> Entry | None:
        """Return the entry ``lsn``; None if the log does not reach so far.

        Raises:
            DamagedError: it is lost.
        """
        return next(self.entries(from_lsn=lsn, to_lsn=lsn), None) if lsn > 0 else None

    def stats(self) -> StoreStats:
        """Return counts, ranges and health of the store."""
        from kifa.stats import collect_stats

        return collect_stats(self.path)

    def verify(self) -> VerifyReport:
        """Read every byte of the store and name all damage."""
        from kifa.verify import verify_store

        return verify_store(self.path)


def _summary(damage: list[Damage]) -> str:
    more = f", and {len(damage) - 1} more; see `kifa verify`" if len(damage) > 1 else ""
    return f"{damage[0]}{more}"
