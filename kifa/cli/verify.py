"""``kifa verify``: every byte of a store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kifa.cli._options import store_option

if TYPE_CHECKING:
    from kifa.verify import VerifyReport


@click.command()
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def verify(directory: Path, as_json: bool) -> None:
    """Read every byte of a store; name every damaged file, offset and LSN range.

    The exit code is 4 if there is any damage.
    """
    import json

    from kifa.errors import DamagedError

    report = _verify(directory)
    click.echo(json.dumps(report.to_dict()) if as_json else report.to_text(), nl=as_json)
    if report.damage:
        raise DamagedError(f"{directory} is damaged", list(report.damage))


def _verify(directory: Path) -> VerifyReport:
    from kifa.verify import verify_store

    if not sys.stderr.isatty():
        return verify_store(directory)
    with click.progressbar(length=1, label="Verifying", file=sys.stderr) as bar:

        def on_progress(done_bytes: int, total_bytes: int) -> None:
            bar.length = max(total_bytes, 1)
            bar.update(done_bytes - bar.pos)

        return verify_store(directory, on_progress)
