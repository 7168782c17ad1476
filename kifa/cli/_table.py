"""All commands and their options."""

from __future__ import annotations

from kifa.cli._option import CHOICE, FLAG, NUMBER, PATH, Command, Option

_TIME_HELP = "a date, '2026-01-31 18:30:00' (UTC, or with an offset), 1h30m (ago), now"

_STORE = Option(
    "-d",
    "--data-dir",
    "--dir",
    parameter="directory",
    kind=PATH,
    help="Directory of the store; else KIFA_DATA_DIR.",
)
_JSON = Option(
    "--json", parameter="as_json", kind=FLAG, default=False, help="Print one JSON object."
)
_OUTPUT = Option(
    "-o",
    "--output",
    kind=PATH,
    required=True,
    help="File to write; it appears, or is replaced, only when it is complete and durable.",
)

_FOLLOW = (
    Option(
        "-f",
        "--follow",
        kind=FLAG,
        default=False,
        help="Go on: print each entry as it becomes durable.",
    ),
    Option(
        "-n",
        "--last",
        kind=NUMBER,
        metavar="N",
        help="Only the last N; with --follow and no start given, 10.",
    ),
)
_SELECTION = (
    Option("--from-lsn", kind=NUMBER, help="First LSN, inclusive."),
    Option("--to-lsn", kind=NUMBER, help="Last LSN, inclusive."),
    Option("--from-time", metavar="TIME", help=f"Start, inclusive: {_TIME_HELP}."),
    Option(
        "--to-time",
        metavar="TIME",
        help="End, inclusive: a date covers its whole day, a second its whole second.",
    ),
    Option("--limit", kind=NUMBER, metavar="N", help="At most N entries."),
    Option("--reverse", kind=FLAG, default=False, help="Newest LSN first."),
    Option(
        "--format",
        parameter="output_format",
        kind=CHOICE,
        choices=("text", "json", "csv", "hex"),
        default="text",
        help="How each entry is written, a line for each.",
    ),
)

# Their values are checked by kifa.config, in one way for all layers; not given, they are None or empty.
_SETTINGS = (
    Option("-d", "--data-dir", kind=PATH, help="Directory of the store; else KIFA_DATA_DIR."),
    Option(
        "-c",
        "--config",
        parameter="config_file",
        kind=PATH,
        help="Configuration file in place of kifa.toml in the data directory.",
    ),
    Option("--stdin", kind=FLAG, help="Store lines of standard input."),
    Option(
        "--file",
        parameter="files",
        metavar="PATH",
        multiple=True,
        help="Follow a file, or a glob.",
    ),
    Option("--tcp", metavar="ADDR", multiple=True, help="Listen on host:port for lines."),
    Option("--udp", metavar="ADDR", multiple=True, help="Listen on host:port for datagrams."),
    Option("--unix", metavar="PATH", multiple=True, help="Listen on a Unix socket for lines."),
    Option("--ack", kind=FLAG, help="Answer each line: ACK and its LSN, or ERR."),
    Option(
        "--flush-mode",
        metavar="MODE",
        help="When groups are synced: normal, cautious (default) or emergency.",
    ),
    Option("--segment-size-mib", metavar="N", help="Size of a WAL segment."),
    Option(
        "--memtable-threshold-mib",
        parameter="memtable_flush_threshold_mib",
        metavar="N",
        help="Entries in memory before they are moved to a table.",
    ),
    Option("--compaction-threshold", metavar="N", help="Tables of one size that are joined."),
    Option(
        "--no-compaction",
        parameter="compaction_enabled",
        kind=FLAG,
        value=False,
        help="Join no tables (compaction_enabled = false).",
    ),
    Option("--channel-capacity", metavar="N", help="Most entries in one group."),
    Option(
        "--framing",
        metavar="NAME",
        help="How senders frame lines: newline (default) or octet-counting.",
    ),
    Option(
        "--from",
        parameter="files_from",
        metavar="WHERE",
        help="Files seen first: from beginning or end.",
    ),
    Option("--max-connections", metavar="N", help="Most connections at once."),
    Option("--max-line-size-bytes", metavar="N", help="Longer lines are refused."),
    Option("--idle-timeout-seconds", metavar="N", help="Close silent connections; 0 for never."),
)

_SHELL = Option("shell", kind=CHOICE, choices=("bash", "zsh", "fish"), help="")

COMMANDS = {
    command.name: command
    for command in (
        Command("daemon", "Store what sources send, durably.", _SETTINGS),
        Command("query", "Print entries.", (_STORE, *_FOLLOW, *_SELECTION)),
        Command("export", "Write entries to a file, atomically.", (_STORE, _OUTPUT, *_SELECTION)),
        Command("stats", "Show counts, ranges and health.", (_STORE, _JSON)),
        Command("verify", "Read every byte and name what is damaged.", (_STORE, _JSON)),
        Command("config", "Show each setting and where it came from.", (_JSON, *_SETTINGS)),
        Command("completion", "Print the completion script of a shell.", (), _SHELL),
    )
}
