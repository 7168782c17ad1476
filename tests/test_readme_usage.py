"""Usage, configuration, signals and exit codes in README.md are those of the code: nothing missing, nothing made up."""

from __future__ import annotations

import re
from pathlib import Path

from kifa.cli._option import FLAG, Option
from kifa.cli._table import COMMANDS
from kifa.config import SETTINGS, Setting
from kifa.daemon import _SIGNALS
from kifa.errors import ExitCode

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SETTING_OPTIONS = {o.parameter: o for o in COMMANDS["daemon"].options if o.parameter in SETTINGS}
LOG_VARIABLES = {"KIFA_DATA_DIR", "KIFA_LOG", "KIFA_LOG_FORMAT"}


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def rows(title: str) -> list[str]:
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return lines[2:]


def written(option: Option) -> str:
    names = ", ".join(f"`{name}`" for name in option.names)
    if option.kind == FLAG:
        return names
    word = option.metavar or ("|".join(option.choices) if option.choices else option.kind.upper())
    return f"{names} {word}".replace("|", "\\|")


def test_usage_names_every_command_and_option() -> None:
    expected = []
    for command in COMMANDS.values():
        options = [written(o) for o in command.options if o.parameter not in SETTINGS]
        if command.name in ("daemon", "config"):
            options.append("those of [Configuration](#configuration)")
        argument = command.argument
        word = " " + "\\|".join(argument.choices) if argument else ""
        expected.append(
            f"| `kifa {command.name}`{word} | {command.summary} | {', '.join(options)} |"
        )
    assert rows("Usage") == expected


def values_of(setting: Setting) -> str:
    """What the error of a wrong value says is right."""
    if isinstance(setting.default, tuple):
        return "addresses" if setting.name in ("tcp", "udp") else "paths"
    try:
        setting.parse("wrong value")
    except ValueError as error:
        return re.sub("it must be (a whole number, |one of )?", "", str(error))
    raise AssertionError(setting.name)


def default_of(setting: Setting) -> str:
    if isinstance(setting.default, tuple):
        return "none"
    return str(setting.default).lower()


def test_configuration_names_every_setting() -> None:
    assert set(SETTING_OPTIONS) == set(SETTINGS)
    expected = [
        f"| `{setting.key}` | `{SETTING_OPTIONS[name].names[-1]}` | `{setting.variable}` "
        f"| {default_of(setting)} | {values_of(setting)} | {SETTING_OPTIONS[name].help} |"
        for name, setting in SETTINGS.items()
    ]
    assert rows("Configuration") == expected


def test_variables_are_those_that_the_code_reads() -> None:
    known = {setting.variable for setting in SETTINGS.values()} | LOG_VARIABLES
    assert set(re.findall(r"\bKIFA_\w+", README)) == known
    in_code = {
        name
        for path in (ROOT / "kifa").rglob("*.py")
        for name in re.findall(r"\bKIFA_[A-Z_]*[A-Z]\b", path.read_text())
    }
    assert in_code == known


def test_signals_are_those_that_the_daemon_handles() -> None:
    named = [
        name for row in rows("Signals") for name in re.findall(r"`(SIG\w+)`", row.split("|")[1])
    ]
    assert sorted(named) == sorted(number.name for number in _SIGNALS)


def test_exit_codes_are_those_of_the_code() -> None:
    cells = [row.split("|")[1] for row in rows("Exit codes")]
    listed = [int(code) for cell in cells for code in cell.split(",")]
    assert listed == list(ExitCode)
