"""What commands say, on standard output and standard error: whole lines, written at once.

Nothing stays in a buffer for the interpreter to write at exit, where a failure would be two lines of its own and exit
code 120.
"""

from __future__ import annotations

import contextlib
import os
import sys

from kifa.errors import ExitCode, standard_output_error

STANDARD_INPUT, STANDARD_OUTPUT, STANDARD_ERROR = 0, 1, 2


def say(text: str) -> None:
    """Write ``text`` to standard output. File names that are not UTF-8 come out as they are.

    Raises:
        BrokenPipeError: whoever reads it has gone.
        KifaError: it cannot be written.
    """
    data = memoryview(text.encode("utf-8", "surrogateescape"))
    try:
        while data:
            data = data[os.write(STANDARD_OUTPUT, data) :]
    except BrokenPipeError:
        raise
    except OSError as error:
        raise standard_output_error(error) from error


def complain(message: str, code: ExitCode) -> ExitCode:
    """Write one line to standard error, in colour where that is welcome, and return ``code``."""
    colour = sys.stderr is not None and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    label = "\x1b[31mkifa:\x1b[0m" if colour else "kifa:"
    one_line = message.replace("\n", "\\n")
    line = f"{label} {one_line}\n".encode("utf-8", "surrogateescape")
    with contextlib.suppress(OSError):  # there is nobody left to tell
        os.write(STANDARD_ERROR, line)
    return code


def hold_standard_descriptors() -> None:
    """Keep descriptors 0 to 2 from being given to files of the store where the caller had closed them.

    What takes their place refuses what they are for, as a closed one would.
    """
    for descriptor in (STANDARD_INPUT, STANDARD_OUTPUT, STANDARD_ERROR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor else os.O_WRONLY)


def let_go_of_streams() -> None:
    """Write out what is left in the streams of the interpreter; what cannot be written is forgotten."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
