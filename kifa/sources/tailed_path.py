"""One path that is tailed: the files that were there one after the other, read oldest first.

The rules, and what each kind of rotation can lose, are in docs/decisions/0005-following-files.md.
"""

from __future__ import annotations

import logging
import os
import time

from kifa._typing import Any, Protocol
from kifa.event_loop import Timer
from kifa.ingest import Ingest
from kifa.sources.generation import Found, Generation, Mark
from kifa.sources.rotation import find, find_copy, find_later, find_replacement

log = logging.getLogger(__name__)

# A file that was rotated away, or deleted, and did not change for so long: its last line needs no line end.
SETTLE_SECONDS = 2.0
# Rotated files that were read to their end stay open for those who still write to them.
MAX_PASSED_OPEN = 3
# So that a checkpoint stays small. No newer file is opened while so many are still to be read.
MAX_GENERATIONS = 24


class Tails(Protocol):
    """What a path needs of the source that it belongs to."""

    ingest: Ingest
    max_line_size_bytes: int
    remembers_closed: bool

    def identities(self) -> set[tuple[int, int]]:
        """Return (device, inode) of all open files."""

    def schedule(self, path: TailedPath) -> None:
        """Call ``path.step`` soon."""

    def schedule_rescan(self) -> None:
        """Look at all paths again soon."""

    def begin_watch(self, path: TailedPath, generation: Generation) -> None:
        """Mark ``generation`` as dirty whenever it changes."""

    def end_watch(self, generation: Generation) -> None:
        """Stop that."""


class TailedPath:
    """The files of one path. The path is the key of its source checkpoint."""

    def __init__(self, tails: Tails, path: str, checkpoint: dict[str, Any] | None) -> None:
        """Find the files of ``checkpoint`` again; `check` looks at what is at the path now."""
        self.path = path
        self.generations: list[Generation] = []
        self.closed: list[Mark] = []
        """Files that were read, and are known if a glob finds them under another name."""
        self.is_blocked = False
        """Whether the disk is full: nothing is read."""
        self._tails = tails
        self._ingest = tails.ingest
        self._timer: Timer | None = None
        # What is closed, or gone: it, and copies of it, are not new.
        self._ended: list[Mark] = []
        self._is_stopped = False
        if checkpoint is not None:
            self._resume([Mark.decode(fields) for fields in checkpoint["generations"]])

    @property
    def position(self) -> dict[str, Any]:
        """The source checkpoint: every line up to here is stored."""
        marks = [*self.closed, *(generation.mark for generation in self.generations)]
        return {"generations": [mark.encode() for mark in marks[-MAX_GENERATIONS:]]}

    # ---- which files ---------------------------------------------------------------------------------------

    def _resume(self, marks: list[Mark]) -> None:
        limit = self._tails.max_line_size_bytes
        for index, mark in enumerate(marks):
            generation = find(self.path, mark, limit)
            if generation is not None and not mark.head_size:
                is_copy = any(m.head_size and m.has_head(generation.descriptor) for m in marks)
                if is_copy or generation.is_at(self.path):
                    # Nothing was read of it, and it may be another one with the same inode: `check` begins it,
                    # and what was there before, but for copies of what was read.
                    generation.close()
                    continue
            if generation is None and index == len(marks) - 1:
                generation = find_replacement(self.path, mark, limit)
            if generation is not None:
                self._add(generation)
            elif any(later.offset for later in marks[index + 1 :]):
                # It was read to its end: nothing newer is read before that.
                if self._tails.remembers_closed:
                    self.closed.append(mark)
            elif mark.offset or not mark.is_copy:
                self._count_lost(mark, "is gone or was truncated while it was not followed")
                self._add_copy(len(self.generations), mark)
        self._ended = marks

    def check(self, *, at_end: bool = False) -> bool:
        """Look at what is at the path now; open it if it is another file than before.

        Args:
            at_end: begin behind what is in it already.

        Returns:
            Whether a file was opened.
        """
        try:
            status = os.stat(self.path)  # noqa: PTH116
        except OSError:
            self._add_missed(
                self._tails.identities()
            )  # one may have come and gone since the last look
            return False
        newest = self.generations[-1] if self.generations else None
        identity = (status.st_dev, status.st_ino)
        if newest is not None and newest.identity == identity:
            return False
        for generation in self.generations:
            if generation.identity == identity:  # a symlink points to it again
                self.generations.remove(generation)
                self.generations.append(generation)
                generation.is_passed = False
                return False
        known = self._tails.identities()
        if identity in known or len(self.generations) >= MAX_GENERATIONS:
            return False
        try:
            generation = Generation.open(self.path, self._tails.max_line_size_bytes)
        except OSError as error:
            log.warning("%s: cannot be read: %s", self.path, error.strerror or error)
            return False
        if not self._add_missed(known | {generation.identity}):
            generation.close()
            return False
        if at_end:
            generation.skip_to_end()
        self._add(generation)
        return True

    def _add_missed(self, known: set[tuple[int, int]]) -> bool:
        """Open what was at the path and was rotated away since the last look; return whether all is open now."""
        if not self._ended and not self.generations:
            return True
        limit = self._tails.max_line_size_bytes
        missed = find_later(self.path, self._ended, self.generations, known, limit)
        room = max(0, MAX_GENERATIONS - 1 - len(self.generations))
        for generation in missed[:room]:
            log.info("%s: a file was there in between, and is read too", self.path)
            self._add(generation)
        for generation in missed[room:]:
            generation.close()
        return len(missed) <= room

    def _add(self, generation: Generation) -> None:
        self._insert(len(self.generations), generation)

    def _insert(self, index: int, generation: Generation) -> None:
        generation.changed_at = time.monotonic()
        self.generations.insert(index, generation)
        self._tails.begin_watch(self, generation)
        self._tails.schedule(self)
        log.info(
            "%s: reading inode %d from byte %d",
            self.path,
            generation.identity[1],
            generation.offset,
        )

    def _add_copy(self, index: int, mark: Mark) -> None:
        # While the path resumes, the source does not know it yet.
        known = self._tails.identities() | {other.identity for other in self.generations}
        copy = find_copy(self.path, mark, known, self._tails.max_line_size_bytes)
        if copy is not None:
            log.info("%s: what was not read of it is in a copy", self.path)
            self._insert(index, copy)

    def _remove(self, generation: Generation) -> None:
        self._note_ended(generation.mark)
        self.generations.remove(generation)
        self._tails.end_watch(generation)
        generation.close()
        if len(self.generations) == MAX_GENERATIONS - 1:
            self._tails.schedule_rescan()

    def _note_ended(self, mark: Mark) -> None:
        self._ended = [*self._ended, mark][-MAX_GENERATIONS:]

    def _count_lost(self, mark: Mark, what: str) -> None:
        self._ingest.lost += 1
        log.warning(
            "%s: inode %d %s; lines behind byte %d may be lost",
            self.path,
            mark.inode,
            what,
            mark.offset,
        )

    # ---- reading -------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Read and store one chunk, of the oldest file that has one; return whether to go on at once."""
        if self.is_blocked or self._is_stopped:
            return False
        for generation in list(self.generations):
            if generation.is_dirty:
                found = generation.read()
                if found is Found.TRUNCATED:
                    self._on_truncated(generation)
                    return True
                if found is Found.DATA:
                    generation.changed_at = time.monotonic()
                    self._store(generation)
                    return not self.is_blocked
                generation.is_dirty = False
            if not self._pass(generation):
                return generation.is_dirty
        return False

    def _pass(self, generation: Generation) -> bool:
        """Decide at the end of a file whether the next one may be read; see to what is left of this one."""
        if generation.is_copy:
            if generation.has_half_line:
                log.warning("%s: a copy ends within a line, which is left out", self.path)
            self._remove(generation)
            return True
        later = self.generations[self.generations.index(generation) + 1 :]
        is_deleted = generation.is_deleted
        if later:
            if not any(other.size_bytes for other in later):
                return False  # its writer has not moved on
            if is_deleted and generation.is_begun_by(later[0]):
                log.info("%s: it was replaced by a copy of itself", self.path)
                later[0].resume(generation.mark)
                self._remove(generation)
                return True
            if not generation.is_passed:
                # What came into the newer file came after what is in this one now.
                generation.is_passed = generation.is_dirty = True
                return False
        elif not is_deleted:
            return False
        if generation.has_half_line or is_deleted:
            left = generation.changed_at + SETTLE_SECONDS - time.monotonic()
            if left > 0:
                self._wake_later(left)
                return bool(later) and not generation.has_half_line
            if generation.has_half_line:
                generation.end_half_line()
                self._store(generation)
                if self.is_blocked:
                    return False
            if is_deleted:
                self._remove(generation)
        self._close_passed()
        return True

    def _close_passed(self) -> None:
        passed = [generation for generation in self.generations if generation.is_passed]
        for generation in passed[:-MAX_PASSED_OPEN]:
            if self._tails.remembers_closed:
                self.closed = [*self.closed, generation.mark][-MAX_GENERATIONS:]
            self._remove(generation)

    def _wake_later(self, seconds: float) -> None:
        def wake() -> None:
            self._timer = None
            self._tails.schedule(self)

        if self._timer is None:
            self._timer = self._ingest.loop.call_later(seconds, wake)

    def _on_truncated(self, generation: Generation) -> None:
        mark = generation.mark
        self._count_lost(mark, "was truncated")
        index = self.generations.index(generation)
        if generation.is_copy:
            self._remove(generation)
            return
        generation.restart()
        self._note_ended(mark)
        self._add_copy(index, mark)

    def _store(self, generation: Generation) -> None:
        stored = self._ingest.store_lines(
            generation.lines, checkpoint=(self.path, lambda: self.position), name=self.path
        )
        self.is_blocked = not stored
        if self.is_blocked:
            self._ingest.wait_for_space(self, lambda: self._store_again(generation))
        elif generation.is_ended:
            generation.begin_new_line()

    def _store_again(self, generation: Generation) -> None:
        if not self._is_stopped:
            self._store(generation)
            self._tails.schedule(self)

    def stop(self) -> None:
        """Read no more. What is not stored is still in the file."""
        self._is_stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def close(self) -> None:
        """Close all files."""
        for generation in self.generations:
            generation.close()
