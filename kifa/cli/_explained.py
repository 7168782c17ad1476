"""The command line as click sees it: help, completion, and one line for every mistake."""

from __future__ import annotations

import contextlib
import io
from functools import partial
from importlib import import_module
from typing import Any

import click

from kifa import __version__
from kifa.cli._option import CHOICE, FLAG, NUMBER, PATH, Command, Option
from kifa.cli._output import complain, say
from kifa.cli._table import COMMANDS
from kifa.errors import ExitCode

Parsed = tuple[Command, dict[str, Any]]


def explain(arguments: list[str]) -> Parsed | int:
    """Return the command and the values of its parameters, or the exit code where all was said.

    Commands run outside of click, which has its own ideas of what a broken pipe means.
    """
    shown = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    try:
        with contextlib.redirect_stdout(shown):
            parsed: Parsed | int = cli.main(arguments, prog_name="kifa", standalone_mode=False)
        return parsed or ExitCode.OK
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        with contextlib.suppress(OSError):  # there is nobody left to tell
            error.show()
        return error.exit_code
    except click.ClickException as error:
        message = " ".join(error.format_message().split()).rstrip(".")
        context = error.ctx if isinstance(error, click.UsageError) else None
        help_of = context.command_path if context else "kifa"
        return complain(f"{message} (see `{help_of} --help`)", ExitCode(error.exit_code))
    finally:
        say(shown.buffer.getvalue().decode())


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        command = COMMANDS.get(cmd_name)
        return None if command is None else _explained(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # from the table, so that `kifa --help` imports no command
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in COMMANDS.items()])


@click.command(cls=_Commands)
@click.version_option(__version__, prog_name="kifa", message="%(prog)s %(version)s")
def cli() -> None:
    """Crash-proof local logging: what is confirmed is never lost."""


def _explained(command: Command) -> click.Command:
    def parsed(**values: Any) -> Parsed:
        return command, values

    parameters: list[click.Parameter] = [_explained_option(option) for option in command.options]
    if command.argument is not None:
        name, choices = command.argument.parameter, command.argument.choices
        argument = click.Argument([name], type=click.Choice(choices), metavar=name.upper())
        parameters.append(argument)
    text = import_module(f"kifa.cli.{command.name}").run.__doc__
    return click.Command(command.name, callback=parsed, params=parameters, help=text)


def _explained_option(option: Option) -> click.Option:
    make = partial(click.Option, [*option.names, option.parameter], help=option.help)
    if option.kind == FLAG:
        if option.value:
            return make(is_flag=True, default=option.default)
        return make(flag_value=False, type=bool, default=None)
    types: dict[str, click.ParamType[Any]] = {
        NUMBER: click.IntRange(*option.bounds),
        PATH: click.Path(),
        CHOICE: click.Choice(option.choices),
    }
    make = partial(
        make,
        type=types.get(option.kind, click.STRING),
        metavar=option.metavar,
        required=option.required,
        multiple=option.multiple,
    )
    if option.multiple or option.default is None:
        return make()  # None as a default would count as given
    return make(default=option.default, show_default=True)
