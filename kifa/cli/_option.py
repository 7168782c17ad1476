"""What the command line consists of, as data: options and commands, without the library that explains them.

A plain command line is parsed from it directly (`kifa.cli._plain`); help, completion and every mistake go through click
(`kifa.cli._explained`), which takes longer to load than most commands take to run.
"""

from __future__ import annotations

MAX_LSN = 2**64 - 1

TEXT = "text"
PATH = "path"
NUMBER = "number"  # whole, within `bounds`
CHOICE = "choice"  # one of `choices`
FLAG = "flag"


class Option:
    """One option: how it is written, what it stands for, what the help says of it."""

    __slots__ = (
        "bounds",
        "choices",
        "default",
        "help",
        "kind",
        "metavar",
        "multiple",
        "names",
        "parameter",
        "required",
        "value",
    )

    def __init__(
        self,
        *names: str,
        help: str,
        parameter: str | None = None,
        kind: str = TEXT,
        metavar: str | None = None,
        bounds: tuple[int, int] = (0, MAX_LSN),
        choices: tuple[str, ...] = (),
        default: object = None,
        value: bool = True,
        required: bool = False,
        multiple: bool = False,
    ) -> None:
        """Describe an option.

        Args:
            names: as users write it, ``-d`` and ``--dir``.
            parameter: what the command calls it; None takes the last name.
            value: what a flag stands for where it is given.
            default: what it is where it is not given; of a ``multiple`` one always ``()``.
        """
        self.names = names
        self.help = help
        self.parameter = parameter or names[-1].lstrip("-").replace("-", "_")
        self.kind = kind
        self.metavar = metavar
        self.bounds = bounds
        self.choices = choices
        self.default = () if multiple else default
        self.value = value
        self.required = required
        self.multiple = multiple


class Command:
    """One command: module ``kifa.cli.<name>`` has its ``run``, whose docstring is the help."""

    __slots__ = ("argument", "name", "options", "summary")

    def __init__(
        self, name: str, summary: str, options: tuple[Option, ...], argument: Option | None = None
    ) -> None:
        self.name = name
        self.summary = summary
        self.options = options
        self.argument = argument
