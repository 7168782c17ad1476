"""What a store holds, and how it is: counts, ranges, bytes, gaps, clock steps. Reads no block of any table."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from kifa import control
from kifa._format import format_timestamp
from kifa._merge import MissingRange, merge
from kifa._typing import Any, NamedTuple
from kifa.errors import Damage
from kifa.segments import SegmentChanged
from kifa.snapshot import MAX_ATTEMPTS, Snapshot, add_range, explain_missing

MAX_U64 = 2**64 - 1
MAX_LISTED = 8  # gaps and clock steps that the text names one by one

ClockStep = tuple[int, int, int]  # LSN, expected and actual wall clock in Unix ms


class StoreStats(NamedTuple):
    """Sizes in bytes, times in Unix ms (None in an empty store)."""

    total_entries: int
    tables: int
    checkpoint_lsn: int
    memtable_entries: int  # entries that only the WAL has
    table_bytes: int
    wal_bytes: int
    wal_segments: int
    flush_mode: str | None
    durable_lsn: int
    min_timestamp_ms: int | None
    max_timestamp_ms: int | None
    gaps: tuple[tuple[int, int], ...]  # LSN ranges, inclusive, that no file has
    clock_step_count: int
    clock_steps: tuple[ClockStep, ...]  # the latest
    damage: tuple[Damage, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return self._asdict() | {"damage": [damage._asdict() for damage in self.damage]}

    def to_text(self) -> str:
        """Return the lines that ``kifa stats`` prints."""
        if self.min_timestamp_ms is None or self.max_timestamp_ms is None:
            time_range = "none"
        else:
            ends = (self.min_timestamp_ms, self.max_timestamp_ms)
            time_range = " - ".join(map(format_timestamp, ends))
        lines = [
            "Storage:",
            f"  Total entries: {self.total_entries}",
            f"  SSTables: {self.tables} (checkpoint LSN: {self.checkpoint_lsn})",
            f"  Memtable: {self.memtable_entries} entries",
            (
                f"  On disk: {format_size(self.table_bytes + self.wal_bytes)} "
                f"(SSTables {format_size(self.table_bytes)}, WAL {format_size(self.wal_bytes)})"
            ),
            "WAL:",
            f"  Flush mode: {(self.flush_mode or 'unknown').capitalize()}",
            f"  Segments: {self.wal_segments}",
            f"  Durable LSN: {self.durable_lsn}",
            "Health:",
            f"  Time range: {time_range}",
            f"  Gaps: {self._gaps_text()}",
            f"  Clock steps: {self._clock_steps_text()}",
        ]
        lines += [f"  Damage: {damage}" for damage in self.damage[:MAX_LISTED]]
        if len(self.damage) > MAX_LISTED:
            lines.append(f"  Damage: {len(self.damage) - MAX_LISTED} more; see `kifa verify`")
        return "\n".join(lines) + "\n"

    def _gaps_text(self) -> str:
        if not self.gaps:
            return "none"
        named = [f"{a}" if a == b else f"{a}-{b}" for a, b in self.gaps[:MAX_LISTED]]
        more = ", ..." if len(self.gaps) > MAX_LISTED else ""
        lost = sum(last - first + 1 for first, last in self.gaps)
        return f"{len(self.gaps)} ({lost} entries lost: LSN {', '.join(named)}{more})"

    def _clock_steps_text(self) -> str:
        if not self.clock_step_count:
            return "none"
        lsn, expected, actual = self.clock_steps[-1]
        change = timedelta(milliseconds=abs(actual - expected))
        way = "forward" if actual > expected else "back"
        return f"{self.clock_step_count} (latest at LSN {lsn}: {way} by {change})"


def format_size(size_bytes: int) -> str:
    """Return a size in the largest binary unit that leaves at least 1."""
    size, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"


def collect_stats(store: Path) -> StoreStats:
    """Look at ``store`` once.

    Raises:
        NotAStoreError: there is none.
        OSError: it cannot be read.
    """
    for attempt in range(MAX_ATTEMPTS):
        with Snapshot.take(store) as snapshot:
            try:
                return _stats_of(snapshot)
            except (SegmentChanged, FileNotFoundError):
                if attempt == MAX_ATTEMPTS - 1:
                    raise
    raise AssertionError("unreachable")


def _stats_of(snapshot: Snapshot) -> StoreStats:
    checkpoint = snapshot.checkpoint_lsn
    entries = in_log = 0
    gaps: list[tuple[int, int]] = []
    times: list[int] = []
    for piece in coverage(snapshot):
        if isinstance(piece, MissingRange):
            add_range(gaps, piece.first_lsn, piece.last_lsn)
            continue
        count = piece.last_lsn - piece.first_lsn + 1
        entries += count
        in_log += count if piece.first_lsn > checkpoint else 0
    for view in snapshot.log.views:
        for extent in view.extents_between(checkpoint + 1, MAX_U64, reverse=False):
            times += [extent.min_timestamp, extent.max_timestamp]
    for table in snapshot.current_tables:
        if table.info.entries:
            times += [table.info.min_timestamp, table.info.max_timestamp]
    steps, step_count = _clock_steps(snapshot)
    damage = explain_missing(gaps, snapshot.damage + snapshot.recorded)
    damage += snapshot.damage_behind_the_end()
    damage += snapshot.unmended()
    return StoreStats(
        total_entries=entries,
        tables=len(snapshot.current_tables),
        checkpoint_lsn=checkpoint,
        memtable_entries=in_log,
        table_bytes=sum(table.info.size_bytes for table in snapshot.tables),
        wal_bytes=sum(view.file.file_size_bytes for view in snapshot.log.views),
        wal_segments=len(snapshot.log.views),
        flush_mode=snapshot.log.flush_mode,
        durable_lsn=snapshot.end_lsn,
        min_timestamp_ms=min(times, default=None),
        max_timestamp_ms=max(times, default=None),
        gaps=tuple(gaps),
        clock_step_count=step_count,
        clock_steps=tuple(steps),
        damage=tuple(damage),
    )


def coverage(snapshot: Snapshot) -> Iterator[Any]:
    """Yield pieces that cover the log: ranges that files have, and what is missing."""
    # An empty time range: all answer from what they know of their blocks, and none is read.
    return merge(snapshot.sources(), 1, snapshot.end_lsn, from_time=MAX_U64, to_time=0)


def _clock_steps(snapshot: Snapshot) -> tuple[list[ClockStep], int]:
    """Return the latest clock steps in LSN order, and the count of all."""
    steps: list[ClockStep] = []
    count = 0
    for table in snapshot.current_tables:
        steps += table.metadata.clock_steps
        count += table.metadata.clock_step_count
    for view in snapshot.log.views:
        if view.scanner is None or not view.extents:
            continue
        for kind, lsn, _, data in view.controls():
            if kind == control.CLOCK_STEP:
                step = (lsn, *control.decode_clock_step(data))
                if step not in steps:
                    steps.append(step)
                    count += 1
    return steps, count
