"""``kifa stats``: what a store holds."""

from __future__ import annotations

import json

from kifa.cli._output import say
from kifa.config import find_data_dir
from kifa.errors import DamagedError
from kifa.stats import collect_stats


def run(directory: str | None, as_json: bool) -> None:
    """Show counts, ranges and health of a store.

    Reads no entry of a table: `kifa verify` does. The exit code is 4 if entries are known to be lost.
    """
    found = collect_stats(find_data_dir(directory)[0])
    say(json.dumps(found.to_dict()) + "\n" if as_json else found.to_text())
    if found.damage:
        raise DamagedError(f"{found.damage[0]}; see `kifa verify`", list(found.damage))
