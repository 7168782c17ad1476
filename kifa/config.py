"""The configuration: command line over environment over ``kifa.toml`` over defaults.

Every setting is one row of `SETTINGS`: its place in the file, its variable, its default and what it accepts. A wrong
value is an error that names layer, key and value, never a silent default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from kifa._typing import Any, NamedTuple
from kifa.errors import ConfigError

CONFIG_FILE_NAME = "kifa.toml"
FLUSH_MODES = ("normal", "cautious", "emergency")
FRAMINGS = ("newline", "octet-counting")
STARTS = ("beginning", "end")
MAX_LINE_SIZE_BYTES = 1 << 20
MAX_IDLE_SECONDS = 2_000_000  # 23 days; epoll can wait for 24

DEFAULT = "default"
COMMAND_LINE = "command line"
ENVIRONMENT = "environment"


class Setting(NamedTuple):
    """One setting: ``[table] name`` in the file, ``variable`` in the environment."""

    table: str
    name: str
    variable: str
    default: Any
    parse: Callable[[Any], Any]  # a TOML value, or the text of a variable; raises ValueError

    @property
    def key(self) -> str:
        """The key as users write it."""
        return f"{self.table}.{self.name}"


def _whole_number(least: int, most: int = 1 << 40) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, str):
            try:
                value = int(value)
            except ValueError:
                value = None
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            bounds = f"{least} or more" if most == 1 << 40 else f"{least} to {most}"
            raise ValueError(f"it must be a whole number, {bounds}")
        return value

    return parse


def _truth(value: Any) -> bool:
    if isinstance(value, str):
        value = {"true": True, "1": True, "yes": True, "on": True}.get(
            value.lower(),
            {"false": False, "0": False, "no": False, "off": False}.get(value.lower()),
        )
    if not isinstance(value, bool):
        raise ValueError("it must be true or false")
    return value


def _one_of(*choices: str) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"it must be one of {', '.join(choices)}")
        return str(value)

    return parse


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) and v for v in value):
        raise ValueError("it must be a list of texts that are not empty")
    return tuple(value)


def _paths(value: Any) -> tuple[str, ...]:
    return tuple(os.path.expanduser(path) for path in _texts(value))  # noqa: PTH111  (may be a glob)


def _addresses(value: Any) -> tuple[str, ...]:
    addresses = _texts(value)
    for address in addresses:
        parse_address(address)
    return addresses


def parse_address(text: str) -> tuple[str, int]:
    """Return (host, port) of ``host:port``, ``[v6]:port`` or ``:port`` (every interface).

    Raises:
        ValueError: it is none of these.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address; write host:port, or [host]:port for IPv6")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} is no address; write an IPv6 host in brackets: [::1]:5514")
    return host, int(port)


SETTINGS: Mapping[str, Setting] = {
    setting.name: setting
    for setting in (
        Setting("wal", "flush_mode", "KIFA_FLUSH_MODE", "cautious", _one_of(*FLUSH_MODES)),
        Setting("wal", "segment_size_mib", "KIFA_SEGMENT_SIZE_MIB", 16, _whole_number(1, 1024)),
        Setting(
            "storage",
            "memtable_flush_threshold_mib",
            "KIFA_MEMTABLE_FLUSH_THRESHOLD_MIB",
            4,
            _whole_number(1, 1024),
        ),
        Setting(
            "storage", "compaction_threshold", "KIFA_COMPACTION_THRESHOLD", 4, _whole_number(2)
        ),
        Setting("storage", "compaction_enabled", "KIFA_COMPACTION_ENABLED", True, _truth),
        Setting(
            "ingester",
            "channel_capacity",
            "KIFA_CHANNEL_CAPACITY",
            1024,
            _whole_number(1, 1 << 20),
        ),
        Setting("ingester", "ack", "KIFA_ACK", False, _truth),
        Setting("sources", "stdin", "KIFA_STDIN", False, _truth),
        Setting("sources", "files", "KIFA_FILES", (), _paths),
        Setting("sources", "tcp", "KIFA_TCP", (), _addresses),
        Setting("sources", "udp", "KIFA_UDP", (), _addresses),
        Setting("sources", "unix", "KIFA_UNIX", (), _paths),
        Setting("sources", "framing", "KIFA_FRAMING", "newline", _one_of(*FRAMINGS)),
        Setting("sources", "files_from", "KIFA_FILES_FROM", "beginning", _one_of(*STARTS)),
        Setting(
            "sources", "max_connections", "KIFA_MAX_CONNECTIONS", 1024, _whole_number(1, 100_000)
        ),
        Setting(
            "sources",
            "max_line_size_bytes",
            "KIFA_MAX_LINE_SIZE_BYTES",
            MAX_LINE_SIZE_BYTES,
            _whole_number(1, MAX_LINE_SIZE_BYTES),
        ),
        Setting(
            "sources",
            "idle_timeout_seconds",
            "KIFA_IDLE_TIMEOUT_SECONDS",
            3600,
            _whole_number(0, MAX_IDLE_SECONDS),
        ),
    )
}


class Config:
    """The effective settings, and for each the layer it came from."""

    def __init__(
        self, data_dir: Path, values: Mapping[str, Any], layers: Mapping[str, str]
    ) -> None:
        self.data_dir = data_dir
        self.values = values
        self.layers = layers

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def engine_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of `kifa.engine.Log`."""
        names = (
            "flush_mode",
            "segment_size_mib",
            "memtable_flush_threshold_mib",
            "compaction_threshold",
            "compaction_enabled",
            "channel_capacity",
        )
        return {name: self.values[name] for name in names}


def load_config(
    command_line: Mapping[str, Any],
    *,
    data_dir: str | Path | None = None,
    config_file: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Config:
    """Return the configuration in force.

    Args:
        command_line: settings given as options; None (or an empty list) where an option was not given.
        data_dir: the directory of the store, if it was given as an option.
        config_file: the file to read in place of ``kifa.toml`` in the data directory.
        environment: in place of the environment of the process.

    Raises:
        ConfigError: a file is missing or unreadable, a key is unknown, a value is wrong.
    """
    environment = os.environ if environment is None else environment
    store, data_dir_layer = find_data_dir(data_dir, environment)
    values: dict[str, Any] = {name: setting.default for name, setting in SETTINGS.items()}
    layers = dict.fromkeys(SETTINGS, DEFAULT)
    layers["data_dir"] = data_dir_layer

    def apply(setting: Setting, value: Any, layer: str, key: str) -> None:
        try:
            values[setting.name] = setting.parse(value)
        except ValueError as error:
            raise ConfigError(f"{layer}: {key} is {value!r}; {error}") from None
        layers[setting.name] = layer

    file = store / CONFIG_FILE_NAME if config_file is None else Path(config_file).expanduser()
    for setting, value in _read_file(file, required=config_file is not None):
        apply(setting, value, str(file), setting.key)
    for setting in SETTINGS.values():
        if setting.variable in environment:
            apply(setting, environment[setting.variable], ENVIRONMENT, setting.variable)
    for name, value in command_line.items():
        if value is not None and value != ():
            apply(SETTINGS[name], value, COMMAND_LINE, SETTINGS[name].key)
    return Config(store, values, layers)


def find_data_dir(
    given: str | Path | None, environment: Mapping[str, str] | None = None
) -> tuple[Path, str]:
    """Return the directory of the store and the layer that names it: an option, or ``KIFA_DATA_DIR``.

    Raises:
        ConfigError: neither does.
    """
    environment = os.environ if environment is None else environment
    if given is not None:
        if not str(given):
            raise ConfigError(f"{COMMAND_LINE}: data_dir is ''; it must name a directory")
        return Path(given).expanduser(), COMMAND_LINE
    if environment.get("KIFA_DATA_DIR"):
        return Path(environment["KIFA_DATA_DIR"]).expanduser(), ENVIRONMENT
    raise ConfigError("no data directory: give -d DIR, or set KIFA_DATA_DIR")


def _read_file(file: Path, *, required: bool) -> list[tuple[Setting, Any]]:
    try:
        content = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if not required:
            return []
        raise ConfigError(f"{file}: no such configuration file", file=str(file)) from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}", file=str(file)) from None
    import tomllib  # only commands that have a file need it

    try:
        tables = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: no valid TOML: {error}", file=str(file)) from None
    found = []
    for table, entries in tables.items():
        if not isinstance(entries, dict) or all(s.table != table for s in SETTINGS.values()):
            raise ConfigError(f"{file}: {table} is unknown", file=str(file))
        for name, value in entries.items():
            setting = SETTINGS.get(name)
            if setting is None or setting.table != table:
                raise ConfigError(f"{file}: {table}.{name} is unknown", file=str(file))
            # A text is no list, number or truth value in TOML: only variables are written as text.
            if isinstance(value, str) and not isinstance(setting.default, str):
                raise ConfigError(
                    f"{file}: {setting.key} is {value!r}; it must not be a text", file=str(file)
                )
            found.append((setting, value))
    return found
