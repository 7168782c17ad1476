"""The ``kifa`` command: one module per subcommand, imported when it is used."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from kifa import __version__
from kifa.errors import ExitCode, KifaError

# Help texts stand here too, so that `kifa --help` imports no command.
COMMANDS = {
    "daemon": "Store what sources send, durably.",
    "query": "Print entries.",
    "export": "Write entries to a file, atomically.",
    "stats": "Show counts, ranges and health.",
    "verify": "Read every byte and name what is damaged.",
    "config": "Show each setting and where it came from.",
    "completion": "Print the completion script of a shell.",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"kifa.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_Commands)
@click.version_option(__version__, prog_name="kifa", message="%(prog)s %(version)s")
def cli() -> None:
    """Crash-proof local logging: what is confirmed is never lost."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(_run(sys.argv[1:] if arguments is None else arguments))


def _run(arguments: list[str]) -> int:
    try:
        code: Any = cli.main(arguments, prog_name="kifa", standalone_mode=False)
        sys.stdout.flush()
        return int(code or ExitCode.OK)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KifaError as error:
        return _complain(str(error), error.exit_code)
    except BrokenPipeError:
        # Whoever read the output has gone; the interpreter must not complain about it at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return ExitCode.OK
    except OSError as error:
        return _complain(str(error), ExitCode.FAILURE)


def _complain(message: str, code: ExitCode) -> int:
    label = click.style("kifa:", fg="red") if sys.stderr.isatty() else "kifa:"
    click.echo(f"{label} {message}", err=True, color=sys.stderr.isatty())
    return code
