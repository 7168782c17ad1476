"""Which records of the segments count (FORMAT.md, "Reading a segment")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.decoder.segment import (
    GROUP_END,
    GROUP_START,
    SECTOR_SIZE_BYTES,
    Record,
    Segment,
)


def counting_records(segments: Sequence[Segment], damage: list[str]) -> Iterator[Record]:
    """Give the valid records that count, in order.

    Args:
        segments: of one store, in any order.
        damage: what is found wrong is added here, a line each.
    """
    ordered = sorted(segments, key=lambda segment: segment.first_lsn)
    bounds = [segment.first_lsn for segment in ordered[1:]]
    kept = [_below(segment, bound) for segment, bound in zip(ordered, [*bounds, None], strict=True)]
    last = max(
        (i for i, records in enumerate(kept) if any(r.is_valid for r in records)), default=-1
    )
    for index, (segment, records) in enumerate(zip(ordered, kept, strict=True)):
        if segment.header is None:
            damage.append(f"wal/{segment.name}: the whole segment is unreadable")
        elif segment.size_bytes < segment.header.size_bytes:
            damage.append(f"wal/{segment.name}: truncated to {segment.size_bytes} bytes")
        if index == last:
            records = _without_torn_tail(segment, records)
        elif index > last:
            records = []
        damage.extend(
            f"wal/{segment.name}: bytes {start} to {end} are invalid"
            for start, end in segment.holes(records)
        )
        yield from (record for record in records if record.is_valid)


def _below(segment: Segment, bound: int | None) -> list[Record]:
    """The records up to the last valid one below the first LSN of the next segment."""
    records = list(segment.records)
    if bound is None:
        return records
    while records and not (records[-1].is_valid and _is_below(records[-1], bound)):
        records.pop()
    return [record for record in records if not record.is_valid or _is_below(record, bound)]


def _is_below(record: Record, bound: int) -> bool:
    return record.lsn < bound


def _without_torn_tail(segment: Segment, records: list[Record]) -> list[Record]:
    start = max(
        (i for i, record in enumerate(records) if record.is_valid and record.flags & GROUP_START),
        default=None,
    )
    if start is None:
        return []
    end = next(
        (
            i
            for i in range(start, len(records))
            if records[i].is_valid and records[i].flags & GROUP_END
        ),
        None,
    )
    if end is None:
        return records[:start]
    group = records[start : end + 1]
    if end + 1 < len(records):
        # A last group without a valid start follows; so this one was durable, whatever is wrong in it.
        return records[: end + 1]
    holes = [hole for hole in segment.holes(records) if hole[0] >= group[0].offset]
    if all(_was_written(hole, group) for hole in holes):
        return records
    return records[:start]


def _was_written(hole: tuple[int, int], group: Sequence[Record]) -> bool:
    """Whether each sector that an invalid area touches also holds a byte of a valid record of the group."""
    first, last = hole[0] // SECTOR_SIZE_BYTES, (hole[1] - 1) // SECTOR_SIZE_BYTES
    return all(
        any(
            record.is_valid
            and record.offset < (sector + 1) * SECTOR_SIZE_BYTES
            and record.end > sector * SECTOR_SIZE_BYTES
            for record in group
        )
        for sector in range(first, last + 1)
    )
