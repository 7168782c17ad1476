"""What Kifa asks of the file system: durable replacement, directory syncs, the writer's lock.

What is on disk if power goes between the steps of a `DurableReplacement`:

    write temp | sync temp | rename | sync directory
    ^ old, perhaps a temp of any content     ^ old or new, whole either way  ^ new
"""

from __future__ import annotations

import errno
import fcntl
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kifa.errors import LockedError, NotAStoreError, UnwritableError

TEMPORARY_SUFFIX = ".tmp"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def temporary_path(path: Path) -> Path:
    """Return the name under which ``path`` is prepared; `remove_temporaries` knows it."""
    return path.with_name(path.name + TEMPORARY_SUFFIX)


def remove_temporaries(directory: Path) -> None:
    """Remove what unfinished replacements left in ``directory``. Only the writer may call this."""
    for name in list_names(directory):
        if name.endswith(TEMPORARY_SUFFIX):
            (directory / name).unlink(missing_ok=True)


def list_names(directory: Path) -> list[str]:
    """Return the sorted names in ``directory``; empty where it does not exist."""
    try:
        return sorted(os.listdir(directory))  # noqa: PTH208  (names only, no Path per file)
    except FileNotFoundError:
        return []


def sync_directory(directory: Path) -> None:
    """Make the names in ``directory`` durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, chunks: Iterable[bytes | memoryview]) -> None:
    """Write every byte of ``chunks`` at the descriptor's position.

    Raises:
        OSError: as ``os.write``; ENOSPC where it writes nothing.
    """
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            written = os.write(descriptor, view)
            if written == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            view = view[written:]


class DurableReplacement:
    """A file in the making, under a temporary name until `publish`. Leaving the context without it removes the file.

    The final name may depend on what was written: only the directory must be the same.
    """

    def __init__(self, path: Path) -> None:
        """Create the temporary file of ``path``.

        Raises:
            OSError: it cannot be created.
        """
        self._temporary = temporary_path(path)
        self.descriptor = os.open(
            self._temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644
        )
        self._published = False

    def __enter__(self) -> DurableReplacement:
        return self

    def write(self, chunks: Iterable[bytes | memoryview]) -> None:
        """Append ``chunks``; see `write_all`."""
        write_all(self.descriptor, chunks)

    def publish(self, path: Path, check: Callable[[Path], None] | None = None) -> None:
        """Make the file durable and give it the name ``path``, replacing what had it.

        Args:
            check: called with the path of the synced file before that gets its name; what it raises ends this.

        Raises:
            OSError: the old file is untouched, unless the last step, the sync of the directory, failed.
        """
        assert path.parent == self._temporary.parent, "a rename across directories is not atomic"
        os.fsync(self.descriptor)
        if check is not None:
            # What is read now comes from the disk, not from memory.
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            check(self._temporary)
        self._temporary.rename(path)
        self._published = True
        sync_directory(path.parent)

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
        if not self._published:
            self._temporary.unlink(missing_ok=True)


def replace_durably(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Replace (or create) the file at ``path`` by ``chunks``, atomically and durably.

    Raises:
        OSError: the old file is untouched and no temporary file is left (unless the process dies).
    """
    with DurableReplacement(path) as replacement:
        replacement.write(chunks)
        replacement.publish(path)


def make_directory_durably(directory: Path) -> None:
    """Create ``directory`` and its missing parents, each name durable.

    Raises:
        UnwritableError: it is not a directory, or may not be created.
    """
    missing = []
    path = directory.absolute()
    while not path.exists():
        missing.append(path)
        path = path.parent
    with _creating(directory):
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        _sync_name(path)
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            sync_directory(path.parent)


def make_directory(directory: Path) -> None:
    """Create ``directory`` in one that exists; its name is durable once that has been synced.

    Raises:
        UnwritableError: it is not a directory, or may not be created.
    """
    with _creating(directory):
        directory.mkdir(exist_ok=True)


@contextmanager
def _creating(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnwritableError(
            f"cannot create {directory}: {error.strerror}; choose another directory",
            file=str(directory),
        ) from error


def _sync_name(path: Path) -> None:
    """Make the name of a directory durable that is there already: whoever created it may have died before its sync."""
    try:
        sync_directory(path.parent)
    except OSError as error:
        # A parent that may not be read, or cannot be synced, is not one in which we created anything.
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS):
            raise


class WriterLock:
    """Makes its holder the one writer of a store; the kernel frees it when the process dies.

    A forked child lets go of it at once: the parent still has it, and when that dies, the next writer need not wait for
    the child.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock on ``path``, creating the file.

        Raises:
            LockedError: another process (or another log of this one) has it.
            UnwritableError: the file cannot be created.
        """
        self._descriptor = -1
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise UnwritableError(
                f"cannot write to {path.parent}: {error.strerror}; check its owner and mode",
                file=str(path),
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise LockedError(
                f"{path.parent} is in use by another writer; stop it, or read with `kifa query`",
                file=str(path),
            ) from error
        _held_locks.add(self)

    def release(self) -> None:
        """Give the lock back. Idempotent."""
        _held_locks.discard(self)
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        # An interrupt may have come before anybody had it.
        self.release()


_held_locks: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def _let_go_in_child() -> None:
    for lock in list(_held_locks):
        lock.release()


os.register_at_fork(after_in_child=_let_go_in_child)


def require_store(directory: Path) -> None:
    """Check that ``directory`` holds a store (docs/FORMAT.md, "A store").

    Raises:
        NotAStoreError: it does not.
    """
    if not ((directory / "manifest").exists() or (directory / "wal").is_dir()):
        raise NotAStoreError(
            f"{directory} is not a Kifa store; check the path (`kifa daemon` creates one)",
            file=str(directory),
        )
