"""The segments that the writer owns: preallocated, renamed into use, recycled.

What is on disk if power goes between the steps of a rotation:

    spare: write header (and, in recovery, a group) | sync | rename to its first LSN | sync directory
    ^ a spare, nothing in it counts ^               ^ spare or empty segment ^ the empty segment

and of recycling, which is for segments of which every LSN is in a published table:

    rename to a spare | sync directory            (only then is the content overwritten, or the next one renamed)
    ^ an old segment, all of it in tables ^ a spare

A segment that may have what a damaged table lost is kept until that is mended, and only such a one: there may be others
missing between it and the next, of which tables have everything.

Recovery syncs the directory before the pool takes over what it finds: the process may have died before that sync, and
a spare that is overwritten while the disk still knows it as a segment would be one of any content.

If the last sync of a rotation fails, the new segment is there and may vanish; an entry in the segment before it could
then have an LSN that only counts in the new one. So the log is poisoned.

A segment is synced at its full size before it gets its name, so a short one is damage. A segment without entries has
the first LSN of the next one, whose rename replaces it atomically.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kifa._typing import NamedTuple
from kifa.errors import NoSpaceError, PoisonedError
from kifa.fs import NO_SPACE, list_names, sync_directory, temporary_path
from kifa.manifest import ManifestSegment
from kifa.segments import (
    BLOCK_SIZE,
    SPARE_SUFFIX,
    WAL_DIRECTORY,
    SegmentHeader,
    parse_hexadecimal_name,
    segment_name,
)

log = logging.getLogger(__name__)

# As many as may be live before a flush is due, so that what a flush recycles is neither thrown away nor made anew.
MAX_SPARES = 4
FILL_CHUNK_SIZE = 1 << 20


class LiveSegment(NamedTuple):
    """A segment that is not recycled yet. Its entries end below the first LSN of the next."""

    path: Path
    first_lsn: int
    sequence: int
    size_bytes: int


class _KeptSegment(NamedTuple):
    """A segment whose entries are in tables, one of which has lost some."""

    segment: LiveSegment
    last_lsn: int

    def overlaps(self, ranges: Iterable[tuple[int, int]]) -> bool:
        """Whether it may have an LSN that is in one of ``ranges``."""
        own_first = self.segment.first_lsn
        return any(first <= self.last_lsn and own_first <= last for first, last in ranges)


class OpenSegment(NamedTuple):
    """The segment that the writer writes to."""

    descriptor: int
    salt: int
    size_bytes: int
    end_offset: int  # where the next group goes


class SegmentPool:
    """Owns the files in ``wal/`` of an open store. Its methods may be called from any thread."""

    def __init__(
        self, store: Path, store_id: bytes, segment_size_bytes: int, live: list[LiveSegment]
    ) -> None:
        """Take over the directory: ``live`` are the segments that recovery found, in LSN order."""
        self._directory = store / WAL_DIRECTORY
        self._store_id = store_id
        self._segment_size_bytes = segment_size_bytes
        self._lock = threading.Lock()
        self._recycle_lock = threading.Lock()
        self._live = list(live)
        self._sequence = max((segment.sequence for segment in live), default=0)
        self._kept: list[_KeptSegment] = []
        self._spares: list[Path] = []
        self._unsynced = False  # names were changed and not made durable
        self._retired: list[Path] = []  # spares whose names are not durable yet
        self._next_spare = 1
        self._direct = True
        self._allocates = True
        for name in list_names(self._directory):
            number = parse_hexadecimal_name(name, SPARE_SUFFIX)
            if number is not None:
                self._next_spare = max(self._next_spare, number + 1)
                self._spares.append(self._directory / name)
        self._drop_misfits()

    @property
    def live(self) -> list[LiveSegment]:
        """The live segments in LSN order."""
        with self._lock:
            return list(self._live)

    @property
    def needs_spare(self) -> bool:
        """Whether a rotation now would have to create its segment."""
        with self._lock:
            return not self._spares

    def manifest_segments(self) -> tuple[ManifestSegment, ...]:
        """Return the live segments as the manifest lists them."""
        return tuple(
            ManifestSegment(f"{WAL_DIRECTORY}/{s.path.name}", s.first_lsn, s.sequence, s.size_bytes)
            for s in self.live
        )

    def rotate(
        self,
        first_lsn: int,
        flush_mode: str,
        min_size_bytes: int = 0,
        first_group: Callable[[int], bytearray] | None = None,
    ) -> OpenSegment:
        """Bring a segment for ``first_lsn`` and what follows into use: durable header, durable name.

        Args:
            min_size_bytes: more than the configured size where one entry needs it.
            first_group: makes a group for a salt; it is durable in the segment before that has its name.

        Raises:
            NoSpaceError: there is no spare and no room for a new segment. Nothing has changed.
            PoisonedError: the new segment has its name, but that may not be durable. Nothing may be written any more.
        """
        size_bytes = max(self._segment_size_bytes, min_size_bytes)
        target = self._directory / segment_name(first_lsn)
        with self._lock:
            assert not self._live or self._live[-1].first_lsn <= first_lsn, "in LSN order"
            spare = (
                self._spares.pop()
                if self._spares and size_bytes == self._segment_size_bytes
                else None
            )
        path = spare or self._make_room(target, first_lsn if first_group is None else 0, size_bytes)
        descriptor = self._open(path)
        try:
            salt = _new_salt(_read_head(path))
            header = SegmentHeader(
                self._store_id,
                self._sequence + 1,
                salt,
                first_lsn,
                size_bytes,
                time.time_ns() // 1_000_000,
                time.clock_gettime_ns(time.CLOCK_BOOTTIME),
                flush_mode,
            )
            content = header.encode() * 2 + (first_group(salt) if first_group else b"")
            assert len(content) <= size_bytes, "a group never spans segments"
            _write_aligned(descriptor, content)
            os.fsync(descriptor)
            path.rename(target)
        except BaseException:
            os.close(descriptor)
            self._give_back(path)
            raise
        try:
            sync_directory(self._directory)
        except OSError as error:
            os.close(descriptor)
            raise PoisonedError(
                f"the name of a new segment could not be synced ({error.strerror}); check the disk, then open the log"
                " again to recover",
                file=str(target),
            ) from error
        with self._lock:
            self._sequence += 1
            if self._live and self._live[-1].first_lsn == first_lsn:
                self._live.pop()  # it held no entry, and the rename replaced it
            self._live.append(LiveSegment(target, first_lsn, self._sequence, size_bytes))
        return OpenSegment(descriptor, salt, size_bytes, len(content))

    def prepare_spare(self, abandon: Callable[[], bool]) -> None:
        """Make one spare with written blocks: a sync into those is half as dear as into unwritten ones.

        Args:
            abandon: asked between chunks; True stops the work, which may take seconds on slow flash.

        Raises:
            NoSpaceError: there is no room; the next rotation will try again.
            OSError: as well; or the spare is there, and its name could not be synced.
        """
        with self._lock:
            if self._spares:
                return
            spare = self._spare_path()
        path = self._create(temporary_path(spare), self._segment_size_bytes)
        try:
            descriptor = self._open(path)
            try:
                filled = _fill_with_zeros(descriptor, self._segment_size_bytes, abandon)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException:
            path.unlink()
            raise
        if not filled:
            path.unlink()
            return
        path.rename(spare)
        with self._lock:
            # It counts before its name is durable: nothing in it does, under either name.
            self._spares.append(spare)
        sync_directory(self._directory)

    def recycle_through(self, checkpoint_lsn: int, keep: Sequence[tuple[int, int]] = ()) -> None:
        """Recycle all segments of which every LSN is at or below ``checkpoint_lsn``.

        The manifest that says so, and the tables it names, must be durable. One at a time and in order, so that
        those that are left follow each other, also after an error.

        Args:
            keep: LSN ranges (inclusive) that tables have lost: a segment that may have some of them stays, and is
                recycled by a later call without them.

        Raises:
            OSError: one could not be recycled; the next call goes on with it.
        """
        with self._recycle_lock:
            self._sync_names()
            for kept in [kept for kept in self._kept if not kept.overlaps(keep)]:
                with self._lock:
                    self._retire(kept.segment)
                    self._kept.remove(kept)
                self._sync_names()
            while True:
                with self._lock:
                    if len(self._live) < 2 or self._live[1].first_lsn > checkpoint_lsn + 1:
                        return
                    oldest = _KeptSegment(self._live[0], self._live[1].first_lsn - 1)
                    if oldest.overlaps(keep):
                        self._kept.append(oldest)
                    else:
                        self._retire(oldest.segment)
                    del self._live[0]
                self._sync_names()

    def _sync_names(self) -> None:
        """Make durable what `_retire` did; only then may its spares be overwritten."""
        if self._unsynced:
            sync_directory(self._directory)
            with self._lock:
                self._spares += self._retired
                self._retired.clear()
            self._unsynced = False

    def _retire(self, segment: LiveSegment) -> None:
        """Remove a segment, or make a spare of it; with the lock."""
        full = len(self._spares) >= MAX_SPARES
        if full or not self._fits(segment.path):
            segment.path.unlink()
        else:
            spare = self._spare_path()
            segment.path.rename(spare)
            self._retired.append(spare)
        self._unsynced = True

    def _make_room(self, target: Path, first_lsn: int, size_bytes: int) -> Path:
        """Create a file for the segment ``target``. On a full disk, take the last one if it holds no entry.

        That one has the name ``target``, for it begins with ``first_lsn`` as well: a log that was opened and not
        written to. It is made a spare first, so that a torn header cannot be one of a segment.
        """
        try:
            return self._create(temporary_path(target), size_bytes)
        except NoSpaceError:
            with self._recycle_lock:
                with self._lock:
                    last = self._live[-1] if self._live else None
                    if last is None or last.first_lsn != first_lsn or not self._fits(last.path):
                        raise
                    if size_bytes != self._segment_size_bytes:
                        raise  # one entry needs a larger one, and the writer has this one open
                    self._retire(last)
                    self._live.pop()
                self._sync_names()
            with self._lock:
                return self._spares.pop()

    def _give_back(self, path: Path) -> None:
        """Keep a spare that could not be used; remove a new file."""
        with self._lock:
            if path.suffix == SPARE_SUFFIX:
                self._spares.append(path)
            else:
                path.unlink(missing_ok=True)

    def _fits(self, path: Path) -> bool:
        return path.stat().st_size == self._segment_size_bytes

    def _spare_path(self) -> Path:
        self._next_spare += 1
        return self._directory / f"{self._next_spare - 1:016x}{SPARE_SUFFIX}"

    def _drop_misfits(self) -> None:
        """Remove spares of another size than the configured one, and those beyond the bound."""
        kept = [path for path in self._spares if self._fits(path)][:MAX_SPARES]
        for path in set(self._spares) - set(kept):
            path.unlink()
        self._spares = kept

    def _open(self, path: Path) -> int:
        """Open for writing, around the page cache where the file system allows it."""
        flags = os.O_RDWR | os.O_CLOEXEC
        if self._direct:
            try:
                return os.open(path, flags | os.O_DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct = False
                log.info("%s: no O_DIRECT here; writing through the page cache", self._directory)
        return os.open(path, flags)

    def _create(self, path: Path, size_bytes: int) -> Path:
        """Create a file of ``size_bytes`` at ``path``, its space secured and its size durable."""
        try:
            path.touch(mode=0o644)
            descriptor = self._open(path)
            try:
                if not self._allocate(descriptor, size_bytes):
                    _fill_with_zeros(descriptor, size_bytes, lambda: False)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            path.unlink(missing_ok=True)
            if error.errno not in NO_SPACE:
                raise
            raise NoSpaceError(
                f"no room for another WAL segment of {size_bytes} bytes in {self._directory};"
                " free some space, and it goes on",
                file=str(path),
            ) from error
        return path

    def _allocate(self, descriptor: int, size_bytes: int) -> bool:
        if self._allocates:
            try:
                # posix_fallocate of the C library would write zeros where the kernel cannot: the same, but slower.
                os.posix_fallocate(descriptor, 0, size_bytes)
                return True
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF):
                    raise
                self._allocates = False
                log.info("%s: no fallocate here; writing zeros instead", self._directory)
        return False


def _write_aligned(descriptor: int, content: bytes | bytearray) -> None:
    """Write whole blocks at the start of a file that was perhaps opened with O_DIRECT."""
    blocks = mmap.mmap(-1, len(content))  # anonymous memory is page-aligned
    blocks[:] = bytes(content)
    view = memoryview(blocks)
    offset = 0
    while offset < len(content):
        offset += os.pwrite(descriptor, view[offset:], offset)


def _fill_with_zeros(descriptor: int, size_bytes: int, abandon: Callable[[], bool]) -> bool:
    """Write all of it; False if it was abandoned."""
    zeros = memoryview(mmap.mmap(-1, FILL_CHUNK_SIZE))  # page-aligned, as O_DIRECT wants it
    offset = 0
    while offset < size_bytes:
        if abandon():
            return False
        written = os.pwrite(descriptor, zeros[: size_bytes - offset], offset)
        assert written > 0, "a write of a block writes some of it or fails"
        offset += written
    return True


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(BLOCK_SIZE)


def _new_salt(old_block: bytes) -> int:
    """Return a random salt of which both halves differ from the one that the file had."""
    old = SegmentHeader.decode(old_block)
    while True:
        salt = int.from_bytes(os.urandom(8), "little")
        if old is None or not (
            salt >> 32 == old.salt >> 32 or salt & 0xFFFFFFFF == old.salt & 0xFFFFFFFF
        ):
            return salt
