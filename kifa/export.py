"""Writing selected entries, formatted, to a descriptor or to a file that appears whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kifa._format import CSV_HEADER, Formatter
from kifa.errors import DamagedError, NoSpaceError, UnwritableError, UsageError
from kifa.fs import DurableReplacement, write_all
from kifa.prefetch import prefetched
from kifa.query import Reader, Selection

WRITE_SIZE_BYTES = 512 << 10

OnProgress = Callable[[int], None]  # entries of the last batch


def write_entries(
    reader: Reader,
    selection: Selection,
    format: str,
    descriptor: int,
    on_progress: OnProgress | None = None,
) -> None:
    """Write the selected entries to ``descriptor``, a line for each.

    Raises:
        DamagedError: after everything else was written.
        OSError: writing failed.
    """
    formatter = Formatter(format)
    if format == "csv":
        try:
            write_all(descriptor, [CSV_HEADER])
        except OSError as error:
            raise OSError(error.errno, error.strerror, descriptor) from None  # as the formatter
    try:
        for batch in prefetched(reader.batches(selection)):
            formatter.add(batch, selection.reverse)
            if formatter.size >= WRITE_SIZE_BYTES:
                formatter.write_to(descriptor)
            if on_progress is not None:
                on_progress(len(batch))
    except DamagedError:
        formatter.write_to(descriptor)
        raise
    formatter.write_to(descriptor)


def export_entries(
    reader: Reader,
    selection: Selection,
    format: str,
    path: Path,
    on_progress: OnProgress | None = None,
) -> None:
    """Write the selected entries to the file ``path``, atomically and durably; an old file is replaced.

    Raises:
        DamagedError: the file is there, with everything that is not lost.
        UnwritableError, NoSpaceError, UsageError: the file cannot be written; nothing was changed.
    """
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file; use `kifa query` to write to it", file=str(path))
    damaged: DamagedError | None = None
    # hidden and with the process id: no file of the user has this name
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with _failures_told(path), DurableReplacement(draft) as file:
        try:
            write_entries(reader, selection, format, file.descriptor, on_progress)
        except DamagedError as error:
            damaged = error
        file.publish(path)
    if damaged is not None:
        raise damaged


@contextmanager
def _failures_told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = NoSpaceError if error.errno in (errno.ENOSPC, errno.EDQUOT) else UnwritableError
        message = f"cannot write {path}: {error.strerror}; nothing was changed"
        raise kind(message, file=str(path)) from error
