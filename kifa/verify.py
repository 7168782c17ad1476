"""Reading every byte of a store and naming everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from kifa._merge import MissingRange, merge
from kifa._typing import Any, NamedTuple
from kifa.errors import Damage
from kifa.segments import SegmentChanged
from kifa.snapshot import MAX_ATTEMPTS, UNEXPLAINED, Snapshot, explain_missing
from kifa.stats import coverage

OnProgress = Callable[[int, int], None]  # (bytes read, bytes in all)


class VerifyReport(NamedTuple):
    """What reading everything showed; sizes in bytes.

    ``lost`` are LSN ranges (inclusive) that no file has any more. ``damage`` names every damaged place, also where
    another copy still has the entries. A torn tail is no damage: nobody was told about it.
    """

    files: int
    bytes_read: int
    entries: int
    lost: tuple[tuple[int, int], ...]
    damage: tuple[Damage, ...]
    torn_tail: Damage | None

    @property
    def intact(self) -> bool:
        """Whether nothing at all is damaged."""
        return not self.damage

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return (
            {"intact": self.intact}
            | self._asdict()
            | {
                "damage": [damage._asdict() for damage in self.damage],
                "torn_tail": self.torn_tail and self.torn_tail._asdict(),
            }
        )

    def to_text(self) -> str:
        """Return the lines that ``kifa verify`` prints."""
        lines = [str(damage) for damage in self.damage]
        if self.torn_tail is not None:
            lines.append(f"note: {self.torn_tail}")
        lost = sum(last - first + 1 for first, last in self.lost)
        verdict = "no damage" if self.intact else f"{len(self.damage)} damaged, {lost} entries lost"
        lines.append(
            f"{self.files} files, {self.bytes_read} bytes, {self.entries} entries: {verdict}"
        )
        return "\n".join(lines) + "\n"


def verify_store(store: Path, on_progress: OnProgress | None = None) -> VerifyReport:
    """Read all of ``store``: tables, WAL, manifest. ``on_progress`` is told how far it is.

    Raises:
        NotAStoreError: there is none.
        OSError: it cannot be read.
    """
    for attempt in range(MAX_ATTEMPTS):
        with Snapshot.take(store, whole_log=True) as snapshot:
            try:
                return _verify(snapshot, on_progress)
            except (SegmentChanged, FileNotFoundError):
                if attempt == MAX_ATTEMPTS - 1:
                    raise
    raise AssertionError("unreachable")


def _verify(snapshot: Snapshot, on_progress: OnProgress | None) -> VerifyReport:
    log_bytes = sum(view.file.file_size_bytes for view in snapshot.log.views)
    total = log_bytes + sum(table.info.size_bytes for table in snapshot.tables)
    done = log_bytes

    def on_block(size_bytes: int) -> None:
        nonlocal done
        done += size_bytes
        if on_progress is not None:
            on_progress(done, total)

    on_block(0)
    in_blocks: list[Damage] = []
    for table in snapshot.tables:
        known = len(table.damage)
        in_blocks += table.verify(on_block)[known:]
    lost, entries = _what_is_left(snapshot, in_blocks)
    places = list(dict.fromkeys([*in_blocks, *snapshot.damage]))
    on_block(total - done)
    return VerifyReport(
        files=len(snapshot.tables) + len(snapshot.log.views) + (snapshot.manifest is not None),
        bytes_read=total,
        entries=entries,
        lost=tuple(lost),
        damage=tuple(places + _older_losses(snapshot, lost, places)),
        torn_tail=snapshot.log.torn_tail,
    )


def _older_losses(
    snapshot: Snapshot, lost: list[tuple[int, int]], places: list[Damage]
) -> list[Damage]:
    """Return damage for lost LSNs that no damaged place explains: what was recorded when they were lost."""
    unexplained = [
        (damage.first_lsn, damage.last_lsn)
        for damage in explain_missing(lost, places)
        if damage.kind == UNEXPLAINED and damage.first_lsn and damage.last_lsn
    ]
    return explain_missing(unexplained, snapshot.recorded)


def _what_is_left(snapshot: Snapshot, in_blocks: list[Damage]) -> tuple[list[tuple[int, int]], int]:
    """Return the LSN ranges that no file has, and the count of entries that some file has."""
    lost: list[tuple[int, int]] = []
    for piece in coverage(snapshot):
        if isinstance(piece, MissingRange):
            lost.append((piece.first_lsn, piece.last_lsn))
    damaged = [(block.first_lsn or 0, block.last_lsn or 0) for block in in_blocks]
    for first, last in _union(damaged):
        for piece in merge(snapshot.sources(), first, last):
            if isinstance(piece, MissingRange):
                lost.append((piece.first_lsn, piece.last_lsn))
    lost = _union(lost)
    return lost, snapshot.end_lsn - sum(last - first + 1 for first, last in lost)


def _union(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ``ranges`` in order, with those that touch or overlap joined."""
    union: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if union and first <= union[-1][1] + 1:
            union[-1] = (union[-1][0], max(union[-1][1], last))
        else:
            union.append((first, last))
    return union
