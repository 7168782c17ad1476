"""``kifa config``: the settings in force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kifa.cli._settings import setting_options


@click.command()
@setting_options
def config(data_dir: Path | None, config_file: Path | None, **given: Any) -> None:
    """Print each setting in force and the layer it came from."""
    import json

    from kifa.config import SETTINGS, load_config

    found = load_config(given, data_dir=data_dir, config_file=config_file)
    click.echo(f"data_dir = {json.dumps(str(found.data_dir))}  # {found.layers['data_dir']}")
    for name, setting in SETTINGS.items():
        value = found[name]
        shown = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
        click.echo(f"{setting.key} = {shown}  # {found.layers[name]}")
