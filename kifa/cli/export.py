"""``kifa export``: entries to a file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from kifa.cli._options import selection_of, selection_options, store_option


@click.command()
@store_option
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write; it appears, or is replaced, only when it is complete and durable.",
)
@selection_options
def export(directory: Path, output: Path, output_format: str, **bounds: Any) -> None:
    """Write entries of a store to a file, atomically.

    Ranges are inclusive. The exit code is 4 if entries of the range are lost; all others are in the file.
    """
    selection = selection_of(**bounds)
    from kifa.export import export_entries
    from kifa.query import Reader

    reader = Reader(directory)
    if not sys.stderr.isatty():
        export_entries(reader, selection, output_format, output)
        return
    expected = reader.stats().total_entries if selection.limit is None else selection.limit
    with click.progressbar(length=expected, label="Exporting", file=sys.stderr) as bar:
        export_entries(reader, selection, output_format, output, bar.update)
