"""``kifa query``: entries to standard output."""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path
from typing import Any

import click

from kifa.cli._options import selection_of, selection_options, store_option

STANDARD_OUTPUT = 1
PIPE_SIZE_BYTES = 1 << 20  # the kernel's limit for everybody; 16 times the default


@click.command()
@store_option
@selection_options
def query(directory: Path, output_format: str, **bounds: Any) -> None:
    """Print entries of a store, also while a daemon writes to it.

    Ranges are inclusive. What is damaged is reported on standard error after everything else was printed, and the
    exit code is 4.
    """
    selection = selection_of(**bounds)
    from kifa.export import write_entries
    from kifa.query import Reader

    with contextlib.suppress(OSError):  # it is no pipe, or all pipes of this user are large already
        fcntl.fcntl(STANDARD_OUTPUT, fcntl.F_SETPIPE_SZ, PIPE_SIZE_BYTES)
    with contextlib.suppress(BrokenPipeError):  # whoever reads, `head` say, has seen enough
        write_entries(Reader(directory), selection, output_format, STANDARD_OUTPUT)
