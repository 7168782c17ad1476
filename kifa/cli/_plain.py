"""Command lines that need no explanation, parsed in a tenth of the time that loading click takes.

Whatever is not plain (help, an abbreviation, a mistake) is None here, and left to click: so there is one place that
words errors, and a test holds the two to the same values.
"""

from __future__ import annotations

from kifa.cli._option import CHOICE, FLAG, NUMBER, Command, Option
from kifa.cli._table import COMMANDS


def parse(arguments: list[str]) -> tuple[Command, dict[str, object]] | None:
    """Return the command and the values of its parameters; None where click must look at it."""
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None or command.argument is not None:
        return None
    options = {name: option for option in command.options for name in option.names}
    values = {option.parameter: option.default for option in command.options}
    missing = {option.parameter for option in command.options if option.required}
    words = iter(arguments[1:])
    for word in words:
        name, equals, text = word.partition("=")
        option = options.get(name)
        if option is None:
            return None
        if option.kind == FLAG:
            if equals:
                return None
            values[option.parameter] = option.value
            continue
        if not equals:
            text = next(words, "-")
            if text.startswith("-"):
                return None
        elif not name.startswith("--"):
            return None  # click takes `=x` of `-d=x` as the value
        value = _value_of(option, text)
        if value is None:
            return None
        if option.multiple:
            value = (*values[option.parameter], value)  # type: ignore[misc]
        values[option.parameter] = value
        missing.discard(option.parameter)
    return None if missing else (command, values)


def _value_of(option: Option, text: str) -> object:
    if option.kind == NUMBER:
        if not text.isascii() or not text.isdigit() or len(text) > 20:
            return None
        low, high = option.bounds
        return int(text) if low <= int(text) <= high else None
    return None if option.kind == CHOICE and text not in option.choices else text
