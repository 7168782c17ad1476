"""Following files: which paths there are, when they changed, and whose turn it is to be read.

Nothing wakes up while nothing changes: inotify watches each open file, and the directories where names may appear.
Only file systems that others change unseen (network file systems, FUSE) are looked at every second.
"""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
from collections import deque
from functools import partial

from kifa.errors import NoSpaceError
from kifa.event_loop import Timer
from kifa.ingest import Ingest
from kifa.sources import inotify
from kifa.sources.generation import CHUNK_SIZE_BYTES, Generation
from kifa.sources.inotify import Inotify, unseen_changes
from kifa.sources.rotation import names_on_the_way
from kifa.sources.tailed_path import TailedPath

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
# What is read in one round of the event loop, so that the other sources have their turn.
ROUND_SIZE_BYTES = 1 << 20

_FILE_EVENTS = inotify.MODIFY | inotify.ATTRIBUTES
_DIRECTORY_GONE = inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.IGNORED
# Of those above, only that they go: what else happens in them must not wake anybody.
_ANCESTOR_EVENTS = inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.ONLY_DIRECTORY
_DIRECTORY_EVENTS = _ANCESTOR_EVENTS | inotify.CREATE | inotify.MOVED_TO


class FileSource:
    """All files of the configuration."""

    def __init__(
        self, ingest: Ingest, patterns: tuple[str, ...], *, from_end: bool, max_line_size_bytes: int
    ) -> None:
        """Begin to follow.

        Args:
            patterns: paths and globs. A file that a glob is the very name of (``a[1].log``) is one of its files.
            from_end: files that are there now and were never read before are read from their end.
            max_line_size_bytes: longer lines are refused.
        """
        self.ingest = ingest
        self.max_line_size_bytes = max_line_size_bytes
        self._patterns = tuple(dict.fromkeys(os.path.abspath(p) for p in patterns))  # noqa: PTH100
        self.remembers_closed = any(glob.has_magic(pattern) for pattern in self._patterns)
        self._paths: dict[str, TailedPath] = {}
        self._ready: deque[TailedPath] = deque()
        self._turn: Timer | None = None
        self._rescan_timer: Timer | None = None
        self._is_polling = False
        self._is_stopped = False
        self._names: set[str] = set()
        self._directories: set[int] = set()
        self._inotify: Inotify | None = None
        try:
            self._inotify = Inotify(ingest.loop, self._on_overflow)
        except OSError as error:
            self._poll(f"inotify: {error.strerror}")
        self._rescan(from_end=from_end)

    # ---- which paths ---------------------------------------------------------------------------------------

    def _rescan(self, *, from_end: bool = False) -> None:
        """Look at every path; open what is new."""
        self._watch_directories()
        stored = self.ingest.store.sources
        for path in self._find_paths():
            if path not in self._paths:
                self._paths[path] = TailedPath(self, path, stored.get(path))
        begun = []
        for tailed in self._paths.values():
            is_first = tailed.path not in stored
            if (
                not self._is_read_already(tailed.path)
                and tailed.check(at_end=from_end and is_first)
                and is_first
            ):
                begun.append(tailed)
        if begun:
            self._note_begun(begun)

    def _note_begun(self, begun: list[TailedPath]) -> None:
        """Store where reading begins: if the daemon dies before a line is, it must not begin elsewhere.

        Not at a later end, and not behind files that are rotated meanwhile.
        """
        try:
            for tailed in begun:
                self.ingest.store.frame_source_checkpoint(tailed.path, tailed.position)
        except NoSpaceError:
            log.debug("no space to store where reading begins")
        self.ingest.store.sync()

    def _find_paths(self) -> list[str]:
        found: dict[str, None] = {}
        stored = self.ingest.store.sources
        for pattern in self._patterns:
            is_glob = glob.has_magic(pattern)
            if not is_glob or os.path.isfile(pattern) or pattern in stored:  # noqa: PTH113
                found[pattern] = None
            if is_glob:
                found |= dict.fromkeys(sorted(filter(os.path.isfile, glob.glob(pattern))))  # noqa: PTH207
                known = (key for key in stored if key not in self._paths)
                found |= dict.fromkeys(key for key in known if fnmatch.fnmatch(key, pattern))
        return list(found)

    def _is_read_already(self, path: str) -> bool:
        """Whether the file was read to its end under another name, and is closed since."""
        marks = [mark for tailed in self._paths.values() for mark in tailed.closed]
        if not marks:
            return False
        try:
            generation = Generation.open(path, self.max_line_size_bytes)
        except OSError:
            return False
        try:
            inode = generation.identity[1]
            # The inode alone says nothing: it may have been freed and used again.
            return any(
                m.inode == inode and m.head_size and m.matches(generation.descriptor) for m in marks
            )
        finally:
            generation.close()

    def identities(self) -> set[tuple[int, int]]:
        """Return (device, inode) of all open files."""
        return {
            generation.identity for path in self._paths.values() for generation in path.generations
        }

    # ---- what changed --------------------------------------------------------------------------------------

    def _watch_directories(self) -> None:
        """Watch where a name of interest may appear, and whether a directory on the way to one goes."""
        wanted: dict[str, int] = {}
        while wanted != (wanted := self._find_directories()):
            self._watch(wanted)  # and look again at what came before it was watched

    def _find_directories(self) -> dict[str, int]:
        ways = dict.fromkeys([*self._paths, *self._patterns])
        for pattern in self._patterns:
            head, name = os.path.split(pattern)
            while glob.has_magic(head):  # each directory that it may name
                ways |= {os.path.join(found, name): None for found in glob.glob(head)}  # noqa: PTH118, PTH207
                head, name = os.path.split(head)
        self._names = set()
        directories: dict[str, int] = {}
        for way in ways:
            for directory, name, is_fixed in names_on_the_way(way):
                directories.setdefault(directory, _ANCESTOR_EVENTS)
                if not is_fixed or glob.has_magic(name):  # others, too, may appear
                    directories[directory] = _DIRECTORY_EVENTS
                    self._names.add(name)
        return directories

    def _watch(self, directories: dict[str, int]) -> None:
        watches = set()
        for directory, events in directories.items():
            kind = unseen_changes(directory) if events == _DIRECTORY_EVENTS else None
            if kind is not None:
                self._poll(f"{directory} is on {kind}")
            handle = self._try_watch(directory, events)
            if handle is not None:
                watches.add(handle)
        for handle in self._directories - watches:
            assert self._inotify is not None
            self._inotify.unwatch(handle)
        self._directories = watches

    def _try_watch(self, directory: str, events: int) -> int | None:
        if self._inotify is None or not os.path.isdir(directory):  # noqa: PTH112
            return None
        try:
            return self._inotify.watch(directory, events, self._on_directory)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._poll(f"{directory}: inotify: {error.strerror}")
            return None

    def _on_directory(self, mask: int, name: str) -> None:
        if (
            mask & _DIRECTORY_GONE
            or name in self._names
            or any(fnmatch.fnmatch(name, wanted) for wanted in self._names)
        ):
            self.schedule_rescan()

    def begin_watch(self, path: TailedPath, generation: Generation) -> None:
        """Mark ``generation`` as dirty whenever it changes."""
        if self._inotify is not None:
            try:
                generation.watch = self._inotify.watch_descriptor(
                    generation.descriptor, _FILE_EVENTS, partial(self._on_file, path, generation)
                )
            except OSError as error:
                self._poll(f"{path.path}: inotify: {error.strerror}")

    def end_watch(self, generation: Generation) -> None:
        """Stop that."""
        if self._inotify is not None and generation.watch is not None:
            self._inotify.unwatch(generation.watch)

    def _on_file(self, path: TailedPath, generation: Generation, _mask: int, _name: str) -> None:
        generation.is_dirty = True
        self.schedule(path)

    def _on_overflow(self) -> None:
        self._look_at_all()
        self.schedule_rescan()

    def _look_at_all(self) -> None:
        for path in self._paths.values():
            for generation in path.generations:
                generation.is_dirty = True
            self.schedule(path)

    def _poll(self, reason: str) -> None:
        if self._is_polling:
            return
        self._is_polling = True
        log.warning("%s: files are looked at every %.0f s", reason, POLL_SECONDS)
        self.ingest.loop.call_later(POLL_SECONDS, self._on_poll)

    def _on_poll(self) -> None:
        if not self._is_stopped:
            self._rescan()
            self._look_at_all()
            self.ingest.loop.call_later(POLL_SECONDS, self._on_poll)

    def reopen(self) -> None:
        """Look at everything again: globs, paths, files."""
        self._on_overflow()

    # ---- whose turn ----------------------------------------------------------------------------------------

    def schedule_rescan(self) -> None:
        """Look at all paths again soon."""
        if self._rescan_timer is None:
            self._rescan_timer = self.ingest.loop.call_later(0, self._on_rescan)

    def _on_rescan(self) -> None:
        self._rescan_timer = None
        if not self._is_stopped:
            self._rescan()

    def schedule(self, path: TailedPath) -> None:
        """Call ``path.step`` soon."""
        if path not in self._ready:
            self._ready.append(path)
        self._take_turn_soon()

    def _take_turn_soon(self) -> None:
        if self._turn is None and self._ready:
            self._turn = self.ingest.loop.call_later(0, self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        for _ in range(ROUND_SIZE_BYTES // CHUNK_SIZE_BYTES):
            if not self._ready or self._is_stopped:
                break
            path = self._ready.popleft()
            if path.step():
                self._ready.append(path)
        self._take_turn_soon()

    def stop(self) -> None:
        """Read no more. What is not stored is still in the files, and read from there at the next start."""
        self._is_stopped = True
        for path in self._paths.values():
            path.stop()

    def close(self) -> None:
        """Close all files."""
        for path in self._paths.values():
            path.close()
        if self._inotify is not None:
            self._inotify.close()
