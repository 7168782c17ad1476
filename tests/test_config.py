"""The layers of the configuration: which wins, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kifa.config import SETTINGS, load_config, parse_address
from kifa.errors import ConfigError

# For each setting: a value of the file, the text of a variable and an option, all different from the default.
SAMPLES: dict[str, tuple[Any, str, Any]] = {
    "flush_mode": ('"normal"', "emergency", "normal"),
    "segment_size_mib": ("2", "3", "5"),
    "memtable_flush_threshold_mib": ("2", "3", "5"),
    "compaction_threshold": ("2", "3", "5"),
    "compaction_enabled": ("false", "false", False),
    "channel_capacity": ("2", "3", "5"),
    "ack": ("true", "true", True),
    "stdin": ("true", "1", True),
    "files": ('["a"]', "b,c", ("d",)),
    "tcp": ('["h:1"]', "h:2, [::1]:3", ("h:4",)),
    "udp": ('["h:1"]', ":2", ("h:4",)),
    "unix": ('["a"]', "b", ("d",)),
    "framing": ('"octet-counting"', "octet-counting", "octet-counting"),
    "files_from": ('"end"', "end", "end"),
    "max_connections": ("2", "3", "5"),
    "max_line_size_bytes": ("2", "3", "5"),
    "idle_timeout_seconds": ("2", "3", "5"),
}


def write(path: Path, name: str, value: str) -> None:
    (path / "kifa.toml").write_text(f"[{SETTINGS[name].table}]\n{name} = {value}\n")


@pytest.mark.parametrize("name", SETTINGS)
def test_each_layer_replaces_the_one_below(name: str, tmp_path: Path) -> None:
    setting = SETTINGS[name]
    in_file, in_environment, as_option = SAMPLES[name]
    environment: dict[str, str] = {}
    given: dict[str, Any] = {}

    def layer() -> str:
        found = load_config(given, data_dir=tmp_path, environment=environment)
        assert (found[name] == setting.default) == (found.layers[name] == "default")
        return found.layers[name]

    assert layer() == "default"
    write(tmp_path, name, in_file)
    assert layer() == str(tmp_path / "kifa.toml")
    environment[setting.variable] = in_environment
    assert layer() == "environment"
    given[name] = as_option
    assert layer() == "command line"


@pytest.mark.parametrize(
    "name", [n for n in SETTINGS if not isinstance(SETTINGS[n].default, tuple)]
)
def test_a_wrong_value_names_layer_key_and_value(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"command line: .*{name} is 'wrong'"):
        load_config({name: "wrong"}, data_dir=tmp_path, environment={})
    variable = SETTINGS[name].variable
    with pytest.raises(ConfigError, match=f"environment: {variable} is 'wrong'"):
        load_config({}, data_dir=tmp_path, environment={variable: "wrong"})
    for value in ('"wrong"', "-1", "[]"):
        write(tmp_path, name, value)
        with pytest.raises(ConfigError, match=rf"kifa.toml: {SETTINGS[name].key} is "):
            load_config({}, data_dir=tmp_path, environment={})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[wal]\nflush = 1", "wal.flush is unknown"),
        ("[walls]\n", "walls is unknown"),
        ("flush_mode = 'normal'", "flush_mode is unknown"),
        ("[storage]\nflush_mode = 'normal'", "storage.flush_mode is unknown"),
        ("[wal", "no valid TOML"),
        ("[sources]\ntcp = ['nowhere']", "sources.tcp is"),
        ("[sources]\ntcp = ['::1:5']", "brackets"),
    ],
)
def test_a_wrong_file_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "kifa.toml").write_text(content)
    with pytest.raises(ConfigError, match=message):
        load_config({}, data_dir=tmp_path, environment={})


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config({}, data_dir=tmp_path, config_file=tmp_path / "none.toml", environment={})
    with pytest.raises(ConfigError, match="no data directory"):
        load_config({}, environment={})


def test_home_expands_in_every_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "kifa.toml").write_text("[sources]\nunix = ['~/u']\n")
    found = load_config(
        {"files": ("~/f*",)}, environment={"KIFA_DATA_DIR": "~", "HOME": str(tmp_path)}
    )
    assert found.data_dir == tmp_path
    assert found["unix"] == (str(tmp_path / "u"),)
    assert found["files"] == (str(tmp_path / "f*"),)


def test_addresses() -> None:
    assert parse_address("[::1]:5514") == ("::1", 5514)
    assert parse_address(":0") == ("", 0)
    for wrong in ("", "5514", "h:", "h:x", "h:65536"):
        with pytest.raises(ValueError, match="no address"):
            parse_address(wrong)


@pytest.mark.parametrize("name", ["tcp", "udp"])
def test_a_wrong_address_is_refused_in_every_layer(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"command line: sources.{name} is \('nowhere',\); .*"):
        load_config({name: ("nowhere",)}, data_dir=tmp_path, environment={})
    variable = SETTINGS[name].variable
    with pytest.raises(ConfigError, match=f"environment: {variable} is 'h:1,nowhere'; "):
        load_config({}, data_dir=tmp_path, environment={variable: "h:1,nowhere"})


@pytest.mark.parametrize("name", [n for n in SETTINGS if isinstance(SETTINGS[n].default, tuple)])
def test_a_list_in_a_file_must_be_one(name: str, tmp_path: Path) -> None:
    for wrong in ('"h:1"', "1", "[1]", '[""]', "true"):
        write(tmp_path, name, wrong)
        with pytest.raises(ConfigError, match=rf"kifa.toml: {SETTINGS[name].key} is "):
            load_config({}, data_dir=tmp_path, environment={})


def test_a_higher_layer_replaces_a_list(tmp_path: Path) -> None:
    write(tmp_path, "tcp", '["h:1", "h:2"]')
    for text, expected in (("h:3", ("h:3",)), ("", ())):
        found = load_config({}, data_dir=tmp_path, environment={"KIFA_TCP": text})
        assert found["tcp"] == expected


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [
        ("segment_size_mib", 1, 1024),
        ("memtable_flush_threshold_mib", 1, 1024),
        ("compaction_threshold", 2, None),
        ("channel_capacity", 1, 1 << 20),
        ("max_connections", 1, 100_000),
        ("max_line_size_bytes", 1, 1 << 20),
        ("idle_timeout_seconds", 0, 2_000_000),
    ],
)
def test_the_bounds_of_numbers(name: str, least: int, most: int | None, tmp_path: Path) -> None:
    for value in (least, most or 10**6):
        assert load_config({name: str(value)}, data_dir=tmp_path, environment={})[name] == value
    for wrong in (least - 1, (most or 1 << 40) + 1, "1.5", "", "x", True):
        with pytest.raises(ConfigError, match=f"must be a whole number, {least}"):
            load_config({name: wrong}, data_dir=tmp_path, environment={})
