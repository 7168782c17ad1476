"""Following a log: what is there now, then every entry as it becomes durable, exactly once and in order.

    catch up: Reader, as far as the log reaches now        tail: the newest segment, group by group
        ^ at the start, after a gap, where segments were recycled meanwhile      |
        +------------------------------------------------------------------------+

The tail is opened, and its position taken, before the reader catches up, so nothing falls between the two; what both
have is told by its LSN. A new group is shown after this process has synced the segment: its writer may not have yet.
Groups before it need no sync, since at most one is in flight. Rotation is seen in the listing of ``wal/``, which is
taken before the tail is read: once the next segment has its name, the one before gets no more.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kifa._format import CSV_HEADER, Formatter
from kifa.errors import (
    Damage,
    DamagedError,
    NotAStoreError,
    UsageError,
    standard_output_error,
)
from kifa.event_loop import BROKEN, EventLoop
from kifa.export import WRITE_SIZE_BYTES, failures_as
from kifa.fs import list_names, require_store, write_all
from kifa.query import Progress, Reader, Selection
from kifa.segments import (
    SEGMENT_SUFFIX,
    WAL_DIRECTORY,
    SegmentFile,
    parse_hexadecimal_name,
    segment_name,
)
from kifa.snapshot import Snapshot
from kifa.sources.inotify import (
    CREATE,
    DELETE,
    MODIFY,
    MOVED_FROM,
    MOVED_TO,
    Inotify,
    unseen_changes,
)

if TYPE_CHECKING:
    from kifa._batch import EntryBatch

POLL_SECONDS = 0.5


def only_last(reader: Reader, selection: Selection, count: int) -> Selection:
    """Return ``selection`` from the LSN on from which it has ``count`` entries now; all of it, if those are fewer."""
    lowest = selection.from_lsn or 1
    if count == 0:
        with Snapshot.take(reader.path) as snapshot:
            lowest = max(snapshot.end_lsn + 1, lowest)
    newest_first = selection.but(reverse=True, limit=count)
    with contextlib.suppress(DamagedError):  # whoever reads from here on will tell
        for batch in reader.batches(newest_first):
            lowest = batch.first_lsn
    return selection.but(from_lsn=lowest)


class Follower:
    """Yields what is new in a store each time it is asked."""

    def __init__(self, reader: Reader, selection: Selection) -> None:
        """Follow the store of ``reader``.

        Raises:
            UsageError: the selection has no order that can be followed.
        """
        if selection.reverse or selection.to_time is not None:
            raise UsageError("--follow goes with neither --reverse nor --to-time")
        self._reader = reader
        self._directory = reader.path / WAL_DIRECTORY
        self._progress = Progress(selection)
        self._tail: SegmentFile | None = None
        self._store_id: bytes | None = None
        self._told: dict[Damage, None] = {}
        self.damage: list[Damage] = []
        """What is lost of the selection, so far."""

    @property
    def done(self) -> bool:
        """Whether the selection has an end and it was reached."""
        return self._progress.done

    def ready(self) -> Iterator[EntryBatch]:
        """Yield what there is and was not yielded yet, durable; after that, wait for the store to change.

        Raises:
            NotAStoreError: the store is gone, or another one is in its place.
            OSError: it cannot be read, or not be synced.
        """
        while not self.done:
            if self._tail is None:
                # Also the newest: whatever comes before its end is in the snapshot that is taken behind this.
                self._open_tail(self._named_lsns()[-1:], survey=True)
                yield from self._catch_up()
                if self._tail is None:
                    return
            names = self._named_lsns()
            replaced = self._is_replaced(self._tail)
            old = self._tail.named_lsn
            yield from self._read_tail(self._tail)
            if self._tail is not None:
                if names[-1:] == [old] and not replaced:
                    return
                self._drop_tail()
                following = max((n for n in names if old <= n <= self._progress.low), default=old)
                if following != old or replaced:
                    self._open_tail([following], survey=False)

    def _named_lsns(self) -> list[int]:
        names = list_names(self._directory)
        lsns = [parse_hexadecimal_name(name, SEGMENT_SUFFIX) for name in names]
        return [lsn for lsn in lsns if lsn is not None]

    def _is_replaced(self, tail: SegmentFile) -> bool:
        """Whether its name belongs to another file: a segment without entries has the name of the next one."""
        try:
            named = (self._directory / segment_name(tail.named_lsn)).stat()
        except FileNotFoundError:
            return True
        return not os.path.samestat(named, os.fstat(tail.descriptor))

    def _open_tail(self, named_lsns: list[int], *, survey: bool) -> None:
        """Open a segment for `_read_tail`; where that cannot be, there is no tail and the reader serves."""
        for lsn in named_lsns:
            try:
                file = SegmentFile(self._directory / segment_name(lsn), lsn)
            except FileNotFoundError:
                return
            if file.header is None or file.header.first_lsn != lsn:
                file.close()  # damaged, or recycled just now
                return
            if self._store_id is None:
                self._store_id = file.header.store_id
            elif self._store_id != file.header.store_id:
                file.close()
                raise NotAStoreError(f"{self._reader.path} is another store by now")
            self._scanner = file.scanner()
            if survey:
                self._scanner.survey()
            self._tail = file

    def _drop_tail(self) -> None:
        if self._tail is not None:
            self._tail.close()
            self._tail = None

    def _read_tail(self, tail: SegmentFile) -> Iterator[EntryBatch]:
        """Yield the new groups of the tail; drop it where it does not go on as it should."""
        assert tail.header is not None
        extents, stuck = self._scanner.advance(tail.header.size_bytes)
        if extents:
            tail.sync()
        for extent in extents:
            if extent.entries == 0:
                continue
            batch = self._scanner.read(extent)
            if batch is None or batch.first_lsn > self._progress.low:
                self._drop_tail()
                return
            batch = batch.within(self._progress.low, self._progress.high)
            if len(batch):
                yield from self._progress.select(batch)
            if self.done:
                return
        if stuck:
            self._drop_tail()

    def _catch_up(self) -> Iterator[EntryBatch]:
        """Yield what there is now, from wherever it is, and note what is lost."""
        try:
            require_store(self._reader.path)
        except NotAStoreError:
            raise NotAStoreError(f"{self._reader.path} was removed") from None
        known = self._progress
        selection = known.selection.but(from_lsn=known.low, limit=known.left)
        progress = Progress(selection)
        try:
            yield from self._reader.read_on(progress)
        except DamagedError as error:
            new = [damage for damage in error.damage if damage not in self._told]
            self._told.update(dict.fromkeys(new))
            self.damage += new
        known.low, known.left = progress.low, progress.left

    def close(self) -> None:
        """Close the files. Idempotent."""
        self._drop_tail()


class Changes:
    """Waits for a store to change, without looking at it: inotify, or where that is blind, a clock."""

    def __init__(self, store: Path, output: int, on_notice: Callable[[str], None]) -> None:
        """Begin to listen.

        Args:
            output: a descriptor; waiting ends, too, when nobody reads from it any more.
            on_notice: told, once, if changes cannot be heard of.
        """
        self._store = store
        self._loop = EventLoop()
        self._inotify: Inotify | None = None
        self._is_changed = self._is_removed = self._is_broken = False
        directory = str(store / WAL_DIRECTORY)
        try:
            self._inotify = Inotify(self._loop, on_overflow=self._on_change)
            mask = MODIFY | CREATE | MOVED_TO
            self._inotify.watch(directory, mask, lambda *_: self._on_change())
            # The directory itself would tell of its end only when nobody has a file of it open.
            self._inotify.watch(str(store), DELETE | MOVED_FROM, self._on_gone)
            blind = unseen_changes(directory)
        except OSError as error:
            blind = f"inotify ({error.strerror})"
        self._polls = blind is not None
        if blind is not None:
            on_notice(f"{blind} does not tell of all changes; looking every {POLL_SECONDS:g} s")
        if stat.S_IFMT(os.fstat(output).st_mode) in (stat.S_IFIFO, stat.S_IFSOCK):
            self._loop.add(output, 0, self._on_output)

    def _on_change(self) -> None:
        self._is_changed = True

    def _on_gone(self, _mask: int, name: str) -> None:
        self._is_removed = self._is_removed or name == WAL_DIRECTORY

    def _on_output(self, events: int) -> None:
        self._is_broken = self._is_broken or bool(events & BROKEN)

    def wait(self) -> None:
        """Return when there may be something new.

        Raises:
            NotAStoreError: the store was removed.
            BrokenPipeError: nobody reads the output any more.
        """
        timer = self._loop.call_later(POLL_SECONDS, self._on_change) if self._polls else None
        while not (self._is_changed or self._is_removed or self._is_broken):
            self._loop.run_once()
        self._is_changed = False
        if timer is not None:
            timer.cancel()
        if self._is_broken:
            raise BrokenPipeError
        if self._is_removed:
            raise NotAStoreError(f"{self._store} was removed")

    def close(self) -> None:
        """Listen no more."""
        if self._inotify is not None:
            self._inotify.close()
        self._loop.close()


def follow_entries(
    reader: Reader,
    selection: Selection,
    format: str,
    descriptor: int,
    on_notice: Callable[[str], None],
) -> None:
    """Write the selected entries to ``descriptor``, a line for each, and go on as new ones become durable.

    Args:
        on_notice: told of damage and of other things that whoever watches should know, as they are found.

    Raises:
        DamagedError: the selection has an end, and some entries before it are lost.
        NotAStoreError: the store was removed.
        BrokenPipeError: nobody reads the output any more.
        OSError, KifaError: reading, syncing or writing failed.
    """
    follower = Follower(reader, selection)
    formatter = Formatter(format)
    # Listening first: what changes from here on is told.
    changes = Changes(reader.path, descriptor, on_notice)
    told = 0

    def write(head: bytes = b"") -> None:
        with failures_as(standard_output_error):
            write_all(descriptor, [head])
            formatter.write_to(descriptor)

    try:
        write(CSV_HEADER if format == "csv" else b"")
        while True:
            for batch in follower.ready():
                formatter.add(batch)
                if formatter.size >= WRITE_SIZE_BYTES:
                    write()
            write()
            for damage in follower.damage[told:]:
                on_notice(str(damage))
            told = len(follower.damage)
            if follower.done:
                break
            changes.wait()
    except KeyboardInterrupt:
        if not follower.damage:
            raise
    finally:
        follower.close()
        changes.close()
    if follower.damage:
        raise DamagedError(f"{len(follower.damage)} damaged; see `kifa verify`", follower.damage)
