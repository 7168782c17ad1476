"""``kifa stats``: what a store holds."""

from __future__ import annotations

from pathlib import Path

import click

from kifa.cli._options import store_option


@click.command()
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def stats(directory: Path, as_json: bool) -> None:
    """Show counts, ranges and health of a store.

    Reads no entry of a table: `kifa verify` does. The exit code is 4 if entries are known to be lost.
    """
    import json

    from kifa.errors import DamagedError
    from kifa.stats import collect_stats

    found = collect_stats(directory)
    click.echo(json.dumps(found.to_dict()) if as_json else found.to_text(), nl=as_json)
    if found.damage:
        raise DamagedError(f"{found.damage[0]}; see `kifa verify`", list(found.damage))
