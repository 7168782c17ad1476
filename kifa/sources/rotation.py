"""Where a file has gone: its directory is searched for its inode, for a copy of it, and for what followed it."""

from __future__ import annotations

import contextlib
import os
import re
from collections import deque
from collections.abc import Collection, Iterator, Sequence

from kifa.sources.generation import Generation, Mark

MAX_LINKS = 40  # as the kernel, which follows no more
# app.log.1, app.log-20260131, app.log.2026-01-31_18; not app.log.1.gz
_NUMBER_OR_DATE = re.compile(r"[._-]?\d[\dT._-]*")


def names_on_the_way(path: str) -> Iterator[tuple[str, str, bool]]:
    """Yield (directory, name, whether it is but a directory on the way) of each step from the root to ``path``.

    Symlinks are steps, too. It ends where there is no way.
    """
    current = "/"
    names = deque(path.split("/"))
    links = 0
    while names:
        name = names.popleft()
        if name in ("", "."):
            continue
        if name == "..":
            current = os.path.dirname(current)  # noqa: PTH120
            continue
        candidate = os.path.join(current, name)  # noqa: PTH118
        try:
            target = os.readlink(candidate)  # noqa: PTH115
        except OSError:
            is_directory = bool(names) and os.path.isdir(candidate)  # noqa: PTH112
            yield current, name, is_directory
            if not is_directory:
                break
            current = candidate
            continue
        yield current, name, False
        links += 1
        if links > MAX_LINKS:
            break
        if target.startswith("/"):
            current = "/"
        names.extendleft(reversed(target.split("/")))


def directories_of(path: str) -> list[str]:
    """Return the directories where a rotated file of ``path`` may be: its own, and those that symlinks lead to."""
    found: list[str] = []
    for _ in range(MAX_LINKS):
        directory = os.path.realpath(os.path.dirname(path) or ".")  # noqa: PTH120
        if directory not in found:
            found.append(directory)
        try:
            target = os.readlink(path)  # noqa: PTH115
        except OSError:
            break
        path = os.path.join(directory, target)  # noqa: PTH118
    return found


def _entries(path: str) -> Iterator[os.DirEntry[str]]:
    for directory in directories_of(path):
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            yield from entries


def find(path: str, mark: Mark, max_line_size_bytes: int) -> Generation | None:
    """Open the file of ``mark``, which was once at ``path``; None if it is gone or was truncated.

    One of which nothing was read has nothing to be known by but its inode, which another file may have by now: it must
    have the name of a rotated one.
    """
    candidates = (
        entry.path
        for entry in _entries(path)
        if entry.inode() == mark.inode
        and (mark.head_size or _is_rotated_name(entry.name, os.path.basename(path)))  # noqa: PTH119
    )
    for candidate in (path, *candidates):
        with contextlib.suppress(OSError):
            generation = Generation.open(candidate, max_line_size_bytes)
            if generation.identity[1] == mark.inode and mark.matches(generation.descriptor):
                generation.resume(mark)
                return generation
            generation.close()
    return None


def find_replacement(path: str, mark: Mark, max_line_size_bytes: int) -> Generation | None:
    """Open what is at ``path`` if it is a copy that took the place of the file of ``mark``, else None."""
    if mark.head_size == 0:
        return None
    with contextlib.suppress(OSError):
        generation = Generation.open(path, max_line_size_bytes)
        if mark.matches(generation.descriptor):
            generation.resume(mark)
            return generation
        generation.close()
    return None


def find_copy(
    path: str, mark: Mark, known: Collection[tuple[int, int]], max_line_size_bytes: int
) -> Generation | None:
    """Open the newest file that begins as that of ``mark`` did and holds what was not read of it; None if none does.

    Args:
        known: (device, inode) of files that are read anyway.
    """
    if mark.head_size == 0:
        return None
    best: tuple[int, Generation] | None = None
    for entry in _entries(path):
        with contextlib.suppress(OSError):
            if not entry.is_file(follow_symlinks=False) or entry.inode() == mark.inode:
                continue
            generation = Generation.open(entry.path, max_line_size_bytes)
            changed_ns = os.fstat(generation.descriptor).st_mtime_ns
            is_copy = generation.identity not in known and mark.matches(generation.descriptor)
            if not is_copy or (best is not None and best[0] >= changed_ns):
                generation.close()
                continue
            if best is not None:
                best[1].close()
            best = changed_ns, generation
    if best is None:
        return None
    generation = best[1]
    generation.resume(mark)
    generation.is_copy = True
    return generation


def find_later(
    path: str,
    ended: Sequence[Mark],
    live: Sequence[Generation],
    known: Collection[tuple[int, int]],
    max_line_size_bytes: int,
) -> list[Generation]:
    """Open the files that were at ``path`` and were rotated away unseen, in the order of their last change.

    Args:
        ended: files that are closed, or gone. There is one, or a live one.
        live: files that are being read.
        known: (device, inode) of all files that are being read, and of what is at ``path`` now.
    """
    found: list[tuple[int, Generation]] = []
    since_ns = max(mark.changed_ns for mark in (*ended, *(other.mark for other in live)))
    for entry in _entries(path):
        if not _is_rotated_name(entry.name, os.path.basename(path)):  # noqa: PTH119
            continue
        with contextlib.suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            identity = (status.st_dev, status.st_ino)
            if status.st_mtime_ns >= since_ns and status.st_size and identity not in known:
                generation = Generation.open(entry.path, max_line_size_bytes)
                if _has_unread(generation, ended, live):
                    found.append((status.st_mtime_ns, generation))
                else:
                    generation.close()
    found.sort(key=lambda item: item[0])
    return [generation for _, generation in found]


def _has_unread(candidate: Generation, ended: Sequence[Mark], live: Sequence[Generation]) -> bool:
    """Whether something in ``candidate`` was not read; where it goes on as another file did, it is read from there."""

    def is_same(mark: Mark) -> bool:
        return mark.head_size > 0 and mark.has_head(candidate.descriptor)

    if any(is_same(other.mark) for other in live):
        # A copy, perhaps of less than was read. If its model is gone, `TailedPath` goes on in it once that is read;
        # not if that was truncated, for then it looks for the copy itself.
        return any(
            is_same(other.mark) and other.is_deleted and other.size_bytes >= other.offset
            for other in live
        )
    same = [mark for mark in ended if is_same(mark)]
    if not same:
        return True
    latest = max(same, key=lambda mark: mark.offset)
    was_read = any(mark.is_copy or mark.inode == candidate.identity[1] for mark in same)
    if was_read or candidate.size_bytes <= latest.offset:
        return False
    candidate.resume(latest)
    return True


def _is_rotated_name(name: str, base: str) -> bool:
    stem, extension = os.path.splitext(base)  # noqa: PTH122
    for prefix, suffix in ((base, ""), (stem, extension)):
        if name.startswith(prefix) and name.endswith(suffix):
            middle = name[len(prefix) : len(name) - len(suffix)]
            if _NUMBER_OR_DATE.fullmatch(middle):
                return True
    return False
