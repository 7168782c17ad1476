"""``kifa verify``: every byte of a store."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kifa.cli._output import say
from kifa.config import find_data_dir
from kifa.errors import DamagedError
from kifa.verify import VerifyReport, verify_store


def run(directory: str | None, as_json: bool) -> None:
    """Read every byte of a store; name every damaged file, offset and LSN range.

    The exit code is 4 if there is any damage.
    """
    store = find_data_dir(directory)[0]
    report = _verify(store)
    say(json.dumps(report.to_dict()) + "\n" if as_json else report.to_text())
    if report.damage:
        raise DamagedError(f"{store} is damaged", list(report.damage))


def _verify(directory: Path) -> VerifyReport:
    if not sys.stderr.isatty():
        return verify_store(directory)
    import click

    with click.progressbar(length=1, label="Verifying", file=sys.stderr) as bar:

        def on_progress(done_bytes: int, total_bytes: int) -> None:
            bar.length = max(total_bytes, 1)
            bar.update(done_bytes - bar.pos)

        return verify_store(directory, on_progress)
