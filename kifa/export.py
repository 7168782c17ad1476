"""Writing selected entries, formatted, to a descriptor or to a file that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kifa._format import CSV_HEADER, Formatter
from kifa.errors import (
    DamagedError,
    KifaError,
    NoSpaceError,
    UnwritableError,
    UsageError,
    standard_output_error,
)
from kifa.fs import NO_SPACE, DurableReplacement, write_all
from kifa.prefetch import prefetched
from kifa.query import Reader, Selection

WRITE_SIZE_BYTES = 512 << 10

OnProgress = Callable[[int], None]  # entries of the last batch
Failure = Callable[[OSError], KifaError]


def write_entries(
    reader: Reader,
    selection: Selection,
    format: str,
    descriptor: int,
    on_progress: OnProgress | None = None,
    failure: Failure = standard_output_error,
) -> None:
    """Write the selected entries to ``descriptor``, a line for each.

    Raises:
        DamagedError: after everything else was written.
        BrokenPipeError: whoever reads it has gone.
        KifaError: it cannot be written; what ``failure`` makes of the OSError.
    """
    formatter = Formatter(format)
    with failures_as(failure):
        write_all(descriptor, [CSV_HEADER] if format == "csv" else [])
    try:
        for batch in prefetched(reader.batches(selection)):
            formatter.add(batch, selection.reverse)
            if formatter.size >= WRITE_SIZE_BYTES:
                with failures_as(failure):
                    formatter.write_to(descriptor)
            if on_progress is not None:
                on_progress(len(batch))
    except Exception:
        # what was read is written, whatever ended the reading; after a failed write nothing is left
        with failures_as(failure):
            formatter.write_to(descriptor)
        raise
    with failures_as(failure):
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

    def failure(error: OSError) -> KifaError:
        kind = NoSpaceError if error.errno in NO_SPACE else UnwritableError
        message = f"cannot write {path}: {error.strerror}; nothing was changed"
        return kind(message, file=str(path))

    damaged: DamagedError | None = None
    # hidden and with the process id: no file of the user has this name
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with failures_as(failure):
        replacement = DurableReplacement(draft)
    with replacement as file:
        try:
            write_entries(reader, selection, format, file.descriptor, on_progress, failure)
        except DamagedError as error:
            damaged = error
        with failures_as(failure):
            file.publish(path)
    if damaged is not None:
        raise damaged


@contextmanager
def failures_as(failure: Failure) -> Iterator[None]:
    """Raise what ``failure`` makes of an OSError; but a reader who has gone stays a BrokenPipeError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise failure(error) from error
