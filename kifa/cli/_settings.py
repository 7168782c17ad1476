"""Options that set the configuration, shared by ``kifa daemon`` and ``kifa config``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

# Values are checked by kifa.config, in one way for all layers.
_OPTIONS = (
    click.option(
        "-d", "--data-dir", type=click.Path(path_type=Path), help="Directory of the store."
    ),
    click.option(
        "-c",
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        help="Configuration file in place of kifa.toml in the data directory.",
    ),
    click.option("--stdin", is_flag=True, default=None, help="Store lines of standard input."),
    click.option(
        "--file", "files", metavar="PATH", multiple=True, help="Follow a file, or a glob."
    ),
    click.option("--tcp", metavar="ADDR", multiple=True, help="Listen on host:port for lines."),
    click.option("--udp", metavar="ADDR", multiple=True, help="Listen on host:port for datagrams."),
    click.option(
        "--unix", metavar="PATH", multiple=True, help="Listen on a Unix socket for lines."
    ),
    click.option("--ack", is_flag=True, default=None, help="Answer each line: ACK <lsn>, or ERR."),
    click.option("--flush-mode", metavar="MODE", help="normal, cautious (default) or emergency."),
    click.option("--segment-size-mib", metavar="N", help="Size of a WAL segment."),
    click.option(
        "--memtable-threshold-mib",
        "memtable_flush_threshold_mib",
        metavar="N",
        help="Entries in memory before they are moved to a table.",
    ),
    click.option("--compaction-threshold", metavar="N", help="Tables of one size that are joined."),
    click.option(
        "--no-compaction",
        "compaction_enabled",
        flag_value=False,
        type=bool,
        default=None,
        help="Join no tables.",
    ),
    click.option("--channel-capacity", metavar="N", help="Most entries in one group."),
    click.option("--framing", metavar="NAME", help="newline (default) or octet-counting."),
    click.option(
        "--from", "files_from", metavar="WHERE", help="Files seen first: from beginning or end."
    ),
    click.option("--max-connections", metavar="N", help="Most connections at once."),
    click.option("--max-line-size-bytes", metavar="N", help="Longer lines are refused."),
    click.option(
        "--idle-timeout-seconds", metavar="N", help="Close silent connections; 0 for never."
    ),
)


def setting_options(command: Command) -> Command:
    """Add an option for each setting; not given, it is None or empty."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
