"""``kifa export``: entries to a file."""

from __future__ import annotations

import sys
from pathlib import Path

from kifa._typing import Any
from kifa.cli._selection import selection_of


def run(directory: str, output: str, output_format: str, **bounds: Any) -> None:
    """Write entries of a store to a file, atomically.

    Ranges are inclusive. The exit code is 4 if entries of the range are lost; all others are in the file.
    """
    selection = selection_of(**bounds)
    from kifa.export import export_entries
    from kifa.query import Reader

    reader = Reader(Path(directory))
    if not sys.stderr.isatty():
        export_entries(reader, selection, output_format, Path(output))
        return
    import click

    expected = reader.stats().total_entries if selection.limit is None else selection.limit
    with click.progressbar(length=expected, label="Exporting", file=sys.stderr) as bar:
        export_entries(reader, selection, output_format, Path(output), bar.update)
