"""``kifa query``: entries to standard output."""

from __future__ import annotations

import contextlib
import fcntl

from kifa._typing import Any
from kifa.cli._output import STANDARD_OUTPUT, complain
from kifa.cli._selection import selection_of
from kifa.config import find_data_dir
from kifa.errors import ExitCode

DEFAULT_LAST = 10
PIPE_SIZE_BYTES = 1 << 20  # the kernel's limit for everybody; 16 times the default


def run(
    directory: str | None, output_format: str, follow: bool, last: int | None, **bounds: Any
) -> int:
    """Print entries of a store, also while a daemon writes to it.

    Ranges are inclusive. What is damaged is reported on standard error after everything else was printed, and the
    exit code is 4. Following ends with SIGINT (130), at --limit or --to-lsn, or when nobody reads any more.
    """
    selection = selection_of(**bounds)
    from kifa.query import Reader

    reader = Reader(find_data_dir(directory)[0])
    if follow and last is None and selection.from_lsn is None and selection.from_time is None:
        last = DEFAULT_LAST
    with contextlib.suppress(OSError):  # it is no pipe, or all pipes of this user are large already
        fcntl.fcntl(STANDARD_OUTPUT, fcntl.F_SETPIPE_SZ, PIPE_SIZE_BYTES)
    if follow or last is not None:
        from kifa import follow as following

        if last is not None:
            selection = following.only_last(reader, selection, last)
        if follow:
            following.follow_entries(reader, selection, output_format, STANDARD_OUTPUT, _notice)
            return ExitCode.OK
    from kifa.export import write_entries

    write_entries(reader, selection, output_format, STANDARD_OUTPUT)
    return ExitCode.OK


def _notice(text: str) -> None:
    complain(text, ExitCode.OK)
