"""The ``kifa`` command: one module per subcommand, imported when it is used."""

from __future__ import annotations

import io
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


STANDARD_OUTPUT = 1


class _StandardOutput(io.FileIO):
    """Fails once, with an error that says so: what the interpreter flushes at exit goes nowhere."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), STANDARD_OUTPUT)
            if isinstance(error, BrokenPipeError):  # whoever reads, `head` say, has seen enough
                return len(data)
            raise OSError(error.errno, error.strerror, STANDARD_OUTPUT) from None


def _open_standard_descriptors() -> None:
    """Take the numbers of those that are closed, before a file of a store gets one and is read or written as it."""
    for descriptor, access in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            # The wrong way round: using it is an error, as it is with a closed one.
            os.open(os.devnull, access)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    _open_standard_descriptors()
    output = _StandardOutput(STANDARD_OUTPUT, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(output),
        encoding=sys.stdout.encoding if sys.stdout else None,
        errors="surrogateescape",
        line_buffering=output.isatty(),
    )
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
    except OSError as error:
        if error.filename == STANDARD_OUTPUT:
            return _complain(
                f"standard output cannot be written: {error.strerror}", ExitCode.FAILURE
            )
        return _complain(str(error), ExitCode.FAILURE)


def _complain(message: str, code: ExitCode) -> int:
    label = click.style("kifa:", fg="red") if sys.stderr.isatty() else "kifa:"
    click.echo(f"{label} {message}", err=True, color=sys.stderr.isatty())
    return code
