"""The ``kifa`` command: one module per subcommand, imported when it is used."""

from __future__ import annotations

import os
import sys

from kifa.cli._output import complain, hold_standard_descriptors, let_go_of_streams, say
from kifa.errors import ExitCode, KifaError

COMPLETION_VARIABLE = "_KIFA_COMPLETE"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    try:
        hold_standard_descriptors()
        code = _run(sys.argv[1:] if arguments is None else arguments)
        let_go_of_streams()
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except KifaError as error:
        return complain(str(error), error.exit_code)
    except BrokenPipeError:
        return ExitCode.OK  # whoever read the output, `head` say, has seen enough
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = ExitCode.NOT_A_STORE if isinstance(error, PermissionError) else ExitCode.FAILURE
        return complain(f"{where}{error.strerror or error}", code)


def _dispatch(arguments: list[str]) -> int:
    parsed = None
    if COMPLETION_VARIABLE not in os.environ:
        if arguments == ["--version"]:
            from kifa import __version__

            say(f"kifa {__version__}\n")
            return ExitCode.OK
        from kifa.cli._plain import parse

        parsed = parse(arguments)
    if parsed is None:
        from kifa.cli._explained import explain

        explained = explain(arguments)
        if isinstance(explained, int):
            return explained
        parsed = explained
    from importlib import import_module

    command, values = parsed
    code: int | None = import_module(f"kifa.cli.{command.name}").run(**values)
    return code or ExitCode.OK
