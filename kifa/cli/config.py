"""``kifa config``: the settings in force."""

from __future__ import annotations

import json

from kifa._typing import Any
from kifa.cli._output import say
from kifa.config import SETTINGS, load_config


def run(data_dir: str | None, config_file: str | None, **given: Any) -> None:
    """Print each setting in force and the layer it came from."""
    found = load_config(given, data_dir=data_dir, config_file=config_file)
    lines = [f"data_dir = {json.dumps(str(found.data_dir))}  # {found.layers['data_dir']}\n"]
    for name, setting in SETTINGS.items():
        value = found[name]
        shown = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
        lines.append(f"{setting.key} = {shown}  # {found.layers[name]}\n")
    say("".join(lines))
