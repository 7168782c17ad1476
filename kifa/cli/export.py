"""``kifa export``: entries to a file."""

from __future__ import annotations

import sys
from pathlib import Path

from kifa._typing import Any
from kifa.cli._selection import selection_of
from kifa.config import find_data_dir


def run(directory: str | None, output: str, output_format: str, **bounds: Any) -> None:
    """Write entries of a store to a file, atomically.

    Ranges are inclusive. The exit code is 4 if entries of the range are lost; all others are in the file.
    """
    selection = selection_of(**bounds)
    from kifa.export import export_entries
    from kifa.query import Reader

    reader = Reader(find_data_dir(directory)[0])
    if not sys.stderr.isatty():
        export_entries(reader, selection, output_format, Path(output).expanduser())
        return
    import click

    expected = reader.stats().total_entries if selection.limit is None else selection.limit
    with click.progressbar(length=expected, label="Exporting", file=sys.stderr) as bar:
        export_entries(reader, selection, output_format, Path(output).expanduser(), bar.update)
