"""Options that several commands share: the store, and which entries of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from kifa.query import Selection

Command = TypeVar("Command", bound=Callable[..., Any])

FORMATS = ("text", "json", "csv", "hex")
_MAX_LSN = 2**64 - 1
_TIME_HELP = "a date, '2026-01-31 18:30:00' (UTC, or with an offset), 1h30m (ago), now"

store_option = click.option(
    "-d",
    "--dir",
    "directory",
    required=True,
    type=click.Path(path_type=Path),
    help="Directory of the store.",
)

_SELECTION = (
    click.option("--from-lsn", type=click.IntRange(0, _MAX_LSN), help="First LSN, inclusive."),
    click.option("--to-lsn", type=click.IntRange(0, _MAX_LSN), help="Last LSN, inclusive."),
    click.option("--from-time", metavar="TIME", help=f"Start, inclusive: {_TIME_HELP}."),
    click.option(
        "--to-time",
        metavar="TIME",
        help="End, inclusive: a date covers its whole day, a second its whole second.",
    ),
    click.option("--limit", metavar="N", type=click.IntRange(0), help="At most N entries."),
    click.option("--reverse", is_flag=True, help="Newest LSN first."),
    click.option(
        "--format",
        "output_format",
        type=click.Choice(FORMATS),
        default="text",
        show_default=True,
        help="How each entry is written, a line for each.",
    ),
)


def selection_options(command: Command) -> Command:
    """Add the options that `selection_of` reads, and ``--format``."""
    for option in reversed(_SELECTION):
        command = option(command)
    return command


def selection_of(
    from_lsn: int | None,
    to_lsn: int | None,
    from_time: str | None,
    to_time: str | None,
    limit: int | None,
    reverse: bool,
) -> Selection:
    """Return the selection that the options describe.

    Raises:
        UsageError: a time cannot be parsed, or a range is empty.
    """
    from kifa.query import Selection
    from kifa.timespec import parse_time

    now_ms = time.time_ns() // 1_000_000
    return Selection(
        from_lsn,
        to_lsn,
        None if from_time is None else parse_time(from_time, now_ms, end=False),
        None if to_time is None else parse_time(to_time, now_ms, end=True),
        limit,
        reverse,
    )
