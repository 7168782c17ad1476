"""The judgement of the WAL: what in a segment counts, and what is torn, damaged or missing.

The rules are those of docs/FORMAT.md, "Reading a segment". Nothing here writes.
"""

from __future__ import annotations

import bisect
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType

from kifa._batch import EntryBatch
from kifa._scan import BrokenGroup, Extent, SegmentScanner, Survey
from kifa._typing import Self
from kifa.errors import Damage
from kifa.read_ahead import read_chunks
from kifa.segments import (
    DATA_OFFSET,
    DEFAULT_SEGMENT_SIZE_BYTES,
    RECORD_OVERHEAD,
    LogPosition,
    SegmentChanged,
    SegmentFile,
    list_segments,
)

SECTOR_SIZE = 512


class SegmentView:
    """What counts in one segment."""

    def __init__(self, file: SegmentFile) -> None:
        self.file = file
        self.extents: list[Extent] = []
        # the first LSN of the next segment: from there on nothing counts here
        self.below_lsn: int | None = None
        self.damage: list[Damage] = []
        self.scanner: SegmentScanner | None = None
        self.found: Survey | Exception | None = None  # what a walk that was done ahead ended with
        self.last_group: Extent | None = None  # if it is complete
        self.judge_later: Callable[[], None] | None = None
        self.start: LogPosition | None = None  # what is before it is not wanted

    def walk(self, thorough: bool) -> None:
        """Do what takes time in judging it; what that ends with is taken by the judgement."""
        assert self.scanner is not None
        try:
            self.found = self.scanner.survey(thorough)
        except Exception as error:  # told by the judgement
            self.found = error

    def survey(self, thorough: bool) -> Survey:
        """Return what a walk over the whole segment finds.

        Raises:
            OSError: it cannot be read.
        """
        if self.found is None:
            self.walk(thorough)
        found, self.found = self.found, None
        if isinstance(found, Exception):
            raise found
        assert found is not None
        return found

    def read_through(self, ahead: bool) -> Iterator[tuple[Extent, bool]]:
        """Judge it, if that was left for later, and yield ``extents`` and whether they were just walked.

        What comes before the first damage counts whatever follows, so it is given away while the walk goes on: a large
        segment is read once.

        Raises:
            as `judge`.
        """
        taken = 0
        scanner = self.scanner
        if self.judge_later is not None and scanner is not None:
            offset, lsn = (self.start.offset, self.start.lsn) if self.start else (DATA_OFFSET, 0)
            scanner.begin(
                offset,
                lsn,
                read_chunks(self.file.path, offset, self.file.readable_bytes, ahead=ahead),
            )
            while (extent := scanner.next_extent()) is not None:
                counts = self.below_lsn is None or extent.first_lsn < self.below_lsn
                if counts and not scanner.found.broken:
                    taken = extent.end
                    yield extent, True
            self.found = scanner.found
        self.judge()
        yield from ((extent, False) for extent in self.extents if extent.start >= taken)

    def judge(self) -> list[Damage]:
        """Read and judge it now, if that was left for later; return its damage.

        Raises:
            SegmentChanged: the segment was recycled meanwhile.
            OSError: it cannot be read.
        """
        if self.judge_later is not None:
            self.judge_later()
            self.judge_later = None
        return self.damage

    @property
    def last_lsn(self) -> int:
        """The highest LSN known to have been used; below ``file.first_lsn`` if there is none.

        Control records count: they carry the LSN of the entry before them, even if that is lost. Of a segment that is
        to be judged later, the highest it may have.
        """
        if self.judge_later is not None and self.below_lsn is not None:
            return self.below_lsn - 1
        last = max((extent.last_lsn for extent in self.extents), default=0)
        last = max(last, self.file.first_lsn - 1)
        return last if self.below_lsn is None else min(last, self.below_lsn - 1)

    def read(self, extent: Extent, walked: bool = False) -> EntryBatch:
        """Decode one of ``extents``; what was just ``walked`` is valid until the next one is asked for.

        Raises:
            SegmentChanged: the segment was recycled meanwhile.
        """
        assert self.scanner is not None
        batch = self.scanner.read_walked(extent) if walked else self.scanner.read(extent)
        if batch is None:
            raise SegmentChanged(self.file.name)
        return batch if self.below_lsn is None else batch.within(0, self.below_lsn - 1)

    def extents_between(self, from_lsn: int, to_lsn: int, reverse: bool) -> list[Extent]:
        """Return those of ``extents`` with entries of the LSN range (inclusive), in order or in reverse."""
        extents = [extent for extent in self.extents if extent.entries]
        first = bisect.bisect_left(extents, from_lsn, key=lambda extent: extent.last_lsn)
        last = bisect.bisect_right(extents, to_lsn, key=lambda extent: extent.first_lsn)
        return extents[first:last][::-1] if reverse else extents[first:last]

    def batches(
        self, from_lsn: int = 0, to_lsn: int = 2**64 - 1, reverse: bool = False
    ) -> Iterator[EntryBatch]:
        """Yield the entries in the range, batch by batch.

        ``reverse`` reverses the order of the batches; the entries in a batch keep LSN order.

        Raises:
            SegmentChanged: the segment was recycled meanwhile.
        """
        for extent in self.extents_between(from_lsn, to_lsn, reverse):
            batch = self.read(extent).within(from_lsn, to_lsn)
            if batch.count:
                yield batch

    def controls(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield its control records that count: (type, LSN, timestamp in ms, data)."""
        for extent in self.extents:
            yield from self.controls_in(extent)

    def controls_in(
        self, extent: Extent, walked: bool = False
    ) -> list[tuple[int, int, int, bytes]]:
        """Return the control records of one of ``extents`` that count, as `controls` does."""
        assert self.scanner is not None
        if not extent.controls:
            return []
        return self.scanner.read_controls(extent, self.below_lsn, walked)


class LogSurvey:
    """All segments, judged. ``damage`` is what is wrong in the WAL alone: a table may have those LSNs."""

    def __init__(self, views: list[SegmentView]) -> None:
        self.views = views
        self.damage: list[Damage] = []
        self.torn_tail: Damage | None = None
        self.closed = False
        # LSNs behind `end_lsn` that a truncated or unreadable last segment may have held
        self.end_may_be_lost = 0

    def judge(self) -> None:
        """Judge what `survey_log` has left for later. Raises as `SegmentView.judge`."""
        for view in self.views:
            view.judge()

    def read_through(self, ahead: bool) -> Iterator[tuple[SegmentView, Extent, bool]]:
        """Yield what counts, in LSN order, and whether it was just walked. When this ends, the WAL is judged.

        Args:
            ahead: read in a thread of its own.

        Raises:
            as `SegmentView.judge`.
        """
        for view in self.views:
            for extent, walked in view.read_through(ahead):
                yield view, extent, walked
        self.damage = [damage for view in self.views for damage in view.damage]

    @property
    def end_lsn(self) -> int:
        """The highest LSN that the WAL accounts for; 0 in an empty log."""
        return max((view.last_lsn for view in self.views), default=0)

    @property
    def flush_mode(self) -> str | None:
        """The flush mode of the newest segment."""
        headers = (view.file.header for view in reversed(self.views))
        return next((header.flush_mode for header in headers if header), None)

    def close(self) -> None:
        """Close all files."""
        for view in self.views:
            view.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def survey_log(
    store: Path,
    *,
    above_lsn: int = 0,
    sync_newest: bool = True,
    store_id: bytes | None = None,
    known_sizes: Mapping[str, int] | None = None,
    lazily: bool = False,
    later: bool = False,
    thorough: bool = False,
    start: LogPosition | None = None,
) -> LogSurvey:
    """Read and judge the WAL of ``store``.

    Args:
        above_lsn: segments that hold only LSNs up to this one are opened, but not read; they count as empty.
        sync_newest: make the newest segment durable after reading, so that nothing shown can be lost.
        store_id: segments of another store are damage; None takes that of the newest.
        known_sizes: what the manifest says of the sizes of segments in bytes, by name: how much one may have held
            whose header is lost with its end.
        lazily: judge only the newest segment; each of the others when it is read, and then its damage is known. The
            writer had left it before the next one had its name, so nothing in it depends on what follows.
        later: judge nothing and sync nothing; `LogSurvey.read_through` does the one, the caller the other.
        thorough: look for a torn tail also where its first record is lost.
        start: with ``later``: where to begin in the segment that has this salt; what is before it is not read, and no
            damage of it known. Tables have every LSN up to that of this position.

    Raises:
        FileNotFoundError, SegmentChanged: a segment was recycled meanwhile; call again.
        OSError: a segment cannot be read.
    """
    files = list_segments(store)
    log = LogSurvey([SegmentView(file) for file in files])
    try:
        if store_id is None:
            store_id = next((f.header.store_id for f in reversed(files) if f.header), None)
        judges: list[Callable[[], None]] = []
        for index, view in enumerate(log.views):
            following = files[index + 1] if index + 1 < len(files) else None
            view.below_lsn = following.first_lsn if following else None
            if following and following.first_lsn <= above_lsn + 1:
                continue
            if known_sizes is not None:
                view.file.known_size_bytes = known_sizes.get(view.file.name, 0)
            judge: Callable[[], None] = partial(
                _judge_segment, log, view, following, store_id, thorough
            )
            if lazily and following is not None:
                view.judge_later = judge
                continue
            if view.file.header is not None and view.file.header.store_id == store_id:
                view.scanner = view.file.scanner()
                if start is not None and view.file.header.salt == start.salt:
                    view.start = start
            if later:
                view.judge_later = judge
            else:
                judges.append(judge)
        if later:
            return log
        _walk_side_by_side([view for view in log.views if view.scanner is not None], thorough)
        for judge in judges:
            judge()
        if files and sync_newest:
            files[-1].sync()
        log.damage.extend(damage for view in log.views for damage in view.damage)
    except BaseException:
        log.close()
        raise
    return log


def _walk_side_by_side(views: list[SegmentView], thorough: bool) -> None:
    """Walk segments in two threads: one waits for the disk while the other checks what it has read."""
    if len(views) < 2:
        return
    for view in views:
        # O_DIRECT has left nothing in the page cache; all of it is wanted, in this order.
        os.posix_fadvise(view.file.descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    waiting = views[::-1]

    def walk() -> None:
        with suppress(IndexError):
            while True:
                waiting.pop().walk(thorough)

    helper = threading.Thread(target=walk, name="kifa-walk")
    helper.start()
    try:
        walk()
    finally:
        waiting.clear()
        helper.join()


def _judge_segment(
    log: LogSurvey,
    view: SegmentView,
    following: SegmentFile | None,
    store_id: bytes | None,
    thorough: bool,
) -> None:
    file = view.file
    for offset in file.damaged_copies:
        view.damage.append(
            Damage("corruption", file.name, offset, None, None, "a copy of the header is damaged")
        )
    if file.header is None:
        _lose_all(log, view, following, "corruption", "both copies of the header are damaged")
        return
    if file.header.store_id != store_id:
        _lose_all(log, view, following, "corruption", "the segment belongs to another store")
        return
    view.scanner = view.scanner or file.scanner()
    survey = view.survey(thorough)
    if not file.unchanged():
        raise SegmentChanged(file.name)
    if following is None:
        log.closed = survey.closed
    view.last_group = survey.last_group
    _take_what_counts(log, view, survey)
    _name_missing(log, view, survey, following)
    missing_bytes = file.header.size_bytes - file.file_size_bytes
    if missing_bytes > 0:
        first = last = None  # unless it is the last segment, what this costs was named above
        if following is None and not survey.closed:
            log.end_may_be_lost = missing_bytes // RECORD_OVERHEAD
            first = view.last_lsn + 1
            last = view.last_lsn + log.end_may_be_lost
        view.damage.append(
            Damage(
                "truncated file",
                file.name,
                file.file_size_bytes,
                first,
                last,
                f"{missing_bytes} bytes are missing at its end",
            )
        )


def _lose_all(
    log: LogSurvey, view: SegmentView, following: SegmentFile | None, kind: str, reason: str
) -> None:
    first = view.file.first_lsn
    if following is not None:
        last = following.first_lsn - 1
    else:
        # Nobody can say how many it held; no LSN that anyone was told about may be used again.
        size_bytes = max(view.file.size_bytes, DEFAULT_SEGMENT_SIZE_BYTES)
        log.end_may_be_lost = (size_bytes - DATA_OFFSET) // RECORD_OVERHEAD
        last = first + log.end_may_be_lost - 1
    if last >= first:
        view.damage.append(Damage(kind, view.file.name, 0, first, last, reason))


def _take_what_counts(log: LogSurvey, view: SegmentView, survey: Survey) -> None:
    """Fill ``view.extents``; set the torn tail of the log."""
    extents = list(survey.extents)
    for group in survey.broken:
        if group.is_last and view.below_lsn is None and not _was_durable(group):
            before = max((e.last_lsn for e in extents), default=view.file.first_lsn - 1)
            last = next((e.last_lsn for e in reversed(group.extents) if e.entries), None)
            first = None if last is None else before + 1
            log.torn_tail = Damage(
                "torn tail",
                view.file.name,
                group.start,
                first,
                last,
                "the last group is incomplete; it was never confirmed",
            )
        else:
            extents.extend(group.extents)
    extents.sort(key=lambda extent: extent.start)
    if view.below_lsn is not None:
        extents = [e for e in extents if e.first_lsn < view.below_lsn]
    view.extents = extents


def _was_durable(group: BrokenGroup) -> bool:
    """Whether a broken last group is proven to have been whole on disk and damaged later."""
    if not (group.has_start and group.has_end):
        return False
    written: set[int] = set()
    for extent in group.extents:
        written.update(_sectors(extent.start, extent.end))
    return all(written.issuperset(_sectors(start, end)) for start, end in group.areas)


def _sectors(start: int, end: int) -> range:
    return range(start // SECTOR_SIZE, (end - 1) // SECTOR_SIZE + 1)


def _name_missing(
    log: LogSurvey, view: SegmentView, survey: Survey, following: SegmentFile | None
) -> None:
    """Name the LSNs that should be here and are not, and the invalid areas that explain them."""
    name = view.file.name
    torn = log.torn_tail.offset if log.torn_tail and log.torn_tail.file == name else None
    areas = [
        area
        for group in survey.broken
        if torn != group.start or not group.is_last
        for area in group.areas
    ]
    expected, position = view.file.first_lsn, survey.start
    if position > DATA_OFFSET and view.start is not None:
        expected = view.start.lsn + 1
    for extent in view.extents:
        explained = [area for area in areas if position <= area[0] < extent.start]
        behind = extent.first_lsn if extent.entries else extent.last_lsn + 1
        if behind > expected:
            offset = explained[0][0] if explained else extent.start
            view.damage.append(_lost(name, offset, expected, behind - 1))
        else:
            view.damage.extend(
                Damage("corruption", name, area[0], None, None, "a control record is damaged")
                for area in explained
            )
        expected = max(expected, extent.last_lsn + 1)
        position = extent.end
    behind = view.below_lsn if view.below_lsn is not None else view.last_lsn + 1
    if behind > expected:
        offset = next((area[0] for area in areas if area[0] >= position), survey.end)
        if _is_next(view.file, following):
            view.damage.append(_lost(name, offset, expected, behind - 1))
        else:
            reason = "a segment that should follow is not there"
            view.damage.append(Damage("missing file", name, None, expected, behind - 1, reason))


def _lost(name: str, offset: int, first_lsn: int, last_lsn: int) -> Damage:
    reason = "records do not match their checksums"
    return Damage("corruption", name, offset, first_lsn, last_lsn, reason)


def lost_for_good(damage: Iterable[Damage], covered: Iterable[tuple[int, int]]) -> Iterator[Damage]:
    """Yield ``damage`` without the LSNs that are in ``covered``: (first, last), ascending."""
    for lost in damage:
        if lost.first_lsn is None or lost.last_lsn is None:
            yield lost
            continue
        first = lost.first_lsn
        for covered_first, covered_last in covered:
            if covered_last < first or covered_first > lost.last_lsn:
                continue
            if covered_first > first:
                yield lost._replace(first_lsn=first, last_lsn=covered_first - 1)
            first = covered_last + 1
        if first <= lost.last_lsn:
            yield lost._replace(first_lsn=first)


def _is_next(file: SegmentFile, following: SegmentFile | None) -> bool:
    """Whether no segment was between the two. What cannot be read is taken for the next one."""
    if following is None or following.header is None or file.header is None:
        return True
    return following.header.sequence == file.header.sequence + 1
