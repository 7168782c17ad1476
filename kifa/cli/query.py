"""``kifa query``: entries to standard output."""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path
from typing import Any

from kifa.cli._output import STANDARD_OUTPUT
from kifa.cli._selection import selection_of

PIPE_SIZE_BYTES = 1 << 20  # the kernel's limit for everybody; 16 times the default


def run(directory: str, output_format: str, **bounds: Any) -> None:
    """Print entries of a store, also while a daemon writes to it.

    Ranges are inclusive. What is damaged is reported on standard error after everything else was printed, and the
    exit code is 4.
    """
    selection = selection_of(**bounds)
    from kifa.export import write_entries
    from kifa.query import Reader

    with contextlib.suppress(OSError):  # it is no pipe, or all pipes of this user are large already
        fcntl.fcntl(STANDARD_OUTPUT, fcntl.F_SETPIPE_SZ, PIPE_SIZE_BYTES)
    write_entries(Reader(Path(directory)), selection, output_format, STANDARD_OUTPUT)
