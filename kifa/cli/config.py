"""``kifa config``: the settings in force."""

from __future__ import annotations

import json

from kifa._typing import Any
from kifa.cli._output import say
from kifa.config import SETTINGS, load_config


def run(data_dir: str | None, config_file: str | None, as_json: bool, **given: Any) -> None:
    """Print each setting in force and the layer it came from: command line, environment, a file, or default."""
    found = load_config(given, data_dir=data_dir, config_file=config_file)
    values = {"data_dir": (str(found.data_dir), found.layers["data_dir"])}
    values |= {s.key: (found[name], found.layers[name]) for name, s in SETTINGS.items()}
    if as_json:
        pairs = {key: {"value": value, "layer": layer} for key, (value, layer) in values.items()}
        say(json.dumps(pairs) + "\n")
        return
    for key, (value, layer) in values.items():
        say(f"{key} = {json.dumps(value, ensure_ascii=False)}  # {layer}\n")
