"""Every setting, variable and log option has an effect on the real process; every wrong value ends it with a reason.

Each effect is shown through one of the layers; that each layer reaches each setting is shown with `kifa config`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kifa._scan import SegmentScanner
from kifa.config import SETTINGS
from kifa.segments import DATA_OFFSET, SegmentFile
from tests.daemons import DEADLINE_SECONDS, data_of
from tests.test_cli import run
from tests.test_config import SAMPLES, write
from tests.test_daemon_sockets import listening, receive

# How each setting is given as an option, with the value of SAMPLES.
OPTIONS = {
    "flush_mode": ["--flush-mode=normal"],
    "segment_size_mib": ["--segment-size-mib=5"],
    "memtable_flush_threshold_mib": ["--memtable-threshold-mib=5"],
    "compaction_threshold": ["--compaction-threshold=5"],
    "compaction_enabled": ["--no-compaction"],
    "channel_capacity": ["--channel-capacity=5"],
    "ack": ["--ack"],
    "stdin": ["--stdin"],
    "files": ["--file=d"],
    "tcp": ["--tcp=h:4"],
    "udp": ["--udp=h:4"],
    "unix": ["--unix=d"],
    "framing": ["--framing=octet-counting"],
    "files_from": ["--from=end"],
    "max_connections": ["--max-connections=5"],
    "max_line_size_bytes": ["--max-line-size-bytes=5"],
    "idle_timeout_seconds": ["--idle-timeout-seconds=5"],
}


def feed(store: Path, data: bytes, *options: object, **variables: str) -> tuple[bytes, str]:
    """Run `kifa daemon` on ``data``, with its settings from options and variables; return what it said."""
    found = subprocess.run(
        [sys.executable, "-m", "kifa", "daemon", "-d", str(store), *map(str, options)],
        input=data,
        capture_output=True,
        env=os.environ | variables,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout, found.stderr.decode()


def tables_of(store: Path) -> int:
    return len(list((store / "sst").iterdir()))


# ---- layers ------------------------------------------------------------------------------------------------------


def test_each_layer_reaches_each_setting(tmp_path: Path) -> None:
    def shown(*options: str, **env: str) -> dict[str, Any]:
        result = run("config", "--json", *options, env={"KIFA_DATA_DIR": str(tmp_path), **env})
        assert result.returncode == 0, result.stderr
        found: dict[str, Any] = json.loads(result.stdout)
        assert found.pop("data_dir") == {"value": str(tmp_path), "layer": "environment"}
        return found

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    assert set(OPTIONS) == set(SETTINGS) == set(SAMPLES)
    assert shown() == {
        s.key: {"value": plain(s.default), "layer": "default"} for s in SETTINGS.values()
    }
    write_all(tmp_path)
    in_file = shown()
    assert {item["layer"] for item in in_file.values()} == {str(tmp_path / "kifa.toml")}
    variables = {SETTINGS[name].variable: text for name, (_, text, _) in SAMPLES.items()}
    in_environment = shown(**variables)
    assert {item["layer"] for item in in_environment.values()} == {"environment"}
    options = [word for words in OPTIONS.values() for word in words]
    given = shown(*options, **variables)
    assert given == {
        SETTINGS[name].key: {"value": plain(SETTINGS[name].parse(value)), "layer": "command line"}
        for name, (_, _, value) in SAMPLES.items()
    }
    text = run("config", "-d", tmp_path).stdout.decode()
    assert f'data_dir = "{tmp_path}"  # command line' in text
    assert f'wal.flush_mode = "normal"  # {tmp_path}/kifa.toml' in text


def write_all(directory: Path) -> None:
    lines = []
    for table in dict.fromkeys(setting.table for setting in SETTINGS.values()):
        names = [setting.name for setting in SETTINGS.values() if setting.table == table]
        lines += [f"[{table}]", *(f"{name} = {SAMPLES[name][0]}" for name in names)]
    (directory / "kifa.toml").write_text("\n".join(lines))


def test_the_data_directory_may_come_from_a_variable_with_its_file(tmp_path: Path) -> None:
    """The daemon finds kifa.toml there, and the readers the store; `~` is the home directory."""
    store = tmp_path / "shop"
    store.mkdir()
    write(store, "stdin", "true")
    env = {"HOME": str(tmp_path), "KIFA_DATA_DIR": "~/shop"}
    command = [sys.executable, "-m", "kifa", "daemon"]
    subprocess.run(command, input=b"one\n", env=os.environ | env, check=True, capture_output=True)
    assert run("query", env=env).stdout.endswith(b"one\n")
    assert run("query", "-d", "~/shop", env=env).stdout.endswith(b"one\n")
    assert run("export", "-o", "~/out", env=env).returncode == 0
    assert (tmp_path / "out").read_bytes().endswith(b"one\n")
    for name in ("stats", "verify"):
        assert run(name, env=env).returncode == 0
    for name in ("daemon", "query", "config"):
        result = run(name, "-d", "")
        assert (result.returncode, result.stderr.count(b"\n")) == (2, 1)
        assert b"data_dir" in result.stderr


def test_a_file_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("[sources]\nstdin = true\n[ingester]\nack = true\n")
    out, _ = feed(tmp_path / "store", b"one\n", "-c", "~/my.toml", HOME=str(tmp_path))
    assert out == b"ACK 1\n"


# ---- the effect of each ------------------------------------------------------------------------------------------


def test_flush_mode(tmp_path: Path) -> None:
    for mode in ("normal", "emergency"):
        feed(tmp_path / mode, b"x\n", "--stdin", KIFA_FLUSH_MODE=mode)
        assert (
            json.loads(run("stats", "-d", tmp_path / mode, "--json").stdout)["flush_mode"] == mode
        )


def test_segment_size(tmp_path: Path) -> None:
    feed(tmp_path, b"x\n", "--stdin", "--segment-size-mib", 3)
    assert {file.stat().st_size for file in (tmp_path / "wal").glob("*.wal")} == {3 << 20}


def test_memtable_threshold(tmp_path: Path) -> None:
    lines = b"x" * 999 + b"\n"
    for size, expected in ((1, True), (64, False)):
        store = tmp_path / str(size)
        feed(store, lines * 3000, "--stdin", KIFA_MEMTABLE_FLUSH_THRESHOLD_MIB=str(size))
        assert (tables_of(store) > 0) == expected


@pytest.mark.parametrize(
    ("content", "joined"),
    [
        ("compaction_threshold = 2", True),
        ("compaction_threshold = 1000", False),
        ("compaction_threshold = 2\ncompaction_enabled = false", False),
    ],
)
def test_compaction(tmp_path: Path, content: str, joined: bool) -> None:
    """A table for each life of the daemon, unless they are joined."""
    (tmp_path / "kifa.toml").write_text(
        f"[storage]\nmemtable_flush_threshold_mib = 1\n{content}\n[sources]\nstdin = true\n"
    )
    for data in [(b"x" * 999 + b"\n") * 2500] * 4 + [b""]:
        feed(tmp_path, data)
    assert tables_of(tmp_path) <= 2 if joined else tables_of(tmp_path) >= 4


def test_channel_capacity(tmp_path: Path) -> None:
    """Most entries in one group; a group begins on a block of its own."""
    for capacity, least, most in ((1, 100, 100), (50, 2, 50)):
        store = tmp_path / str(capacity)
        feed(store, b"x\n" * 100, "--stdin", KIFA_CHANNEL_CAPACITY=str(capacity))
        (path,) = (store / "wal").glob("*.wal")
        file = SegmentFile(path, 1)
        scanner: SegmentScanner = file.scanner()
        blocks = (scanner.survey().end - DATA_OFFSET) // 4096
        assert least <= blocks - 1 <= most  # one more closes the log
        file.close()


def test_ack_and_standard_input(tmp_path: Path) -> None:
    assert feed(tmp_path / "a", b"x\n", KIFA_STDIN="1", KIFA_ACK="yes")[0] == b"ACK 1\n"
    assert feed(tmp_path / "b", b"x\n", KIFA_STDIN="1", KIFA_ACK="no")[0] == b""
    result = run("daemon", "-d", tmp_path / "c")
    assert (result.returncode, result.stderr.count(b"\n")) == (2, 1)
    assert b"no source" in result.stderr


def test_lists_of_sources_in_a_variable(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(f"file {name}\n")
    store = tmp_path / "store"
    env = {
        "HOME": str(tmp_path),
        "KIFA_FILES": "~/one, ~/two",
        "KIFA_UNIX": "~/a,~/b",
        "KIFA_TCP": "127.0.0.1:0,[::1]:0",
        "KIFA_UDP": "127.0.0.1:0",
        "KIFA_ACK": "1",
    }
    with listening(store, env=os.environ | env) as (_, ports):
        for name in ("a", "b"):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(str(tmp_path / name))
                peer.sendall(b"unix\n")
                assert receive(peer, 4).startswith(b"ACK ")
        for host, port in zip(("127.0.0.1", "::1"), ports, strict=False):
            with socket.create_connection((host, port)) as peer:
                peer.sendall(b"tcp\n")
                assert receive(peer, 4).startswith(b"ACK ")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"udp", ("127.0.0.1", ports[2]))
        while b"udp" not in data_of(store):
            pass
    expected = [b"file one", b"file two", b"tcp", b"tcp", b"udp", b"unix", b"unix"]
    assert sorted(data_of(store)) == expected


def test_framing(tmp_path: Path) -> None:
    with listening(tmp_path, "--tcp", ":0", "--ack", env=with_variable("framing")) as (_, (port,)):  # noqa: SIM117
        with socket.create_connection(("::1", port)) as peer:
            peer.sendall(b"3 a\nb")
            assert receive(peer, 6) == b"ACK 1\n"
    assert data_of(tmp_path) == [b"a\nb"]


def with_variable(name: str, value: str | None = None) -> dict[str, str]:
    return os.environ | {SETTINGS[name].variable: SAMPLES[name][1] if value is None else value}


def test_where_files_begin(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("old\n")
    store = tmp_path / "store"
    with listening(store, "--file", path, env=with_variable("files_from")):
        with path.open("a") as file:
            file.write("new\n")
        while not data_of(store):
            pass
    assert data_of(store) == [b"new"]


def test_connections_and_lines_are_limited(tmp_path: Path) -> None:
    env = with_variable("max_connections", "1") | {"KIFA_MAX_LINE_SIZE_BYTES": "3"}
    with listening(tmp_path, "--tcp", "127.0.0.1:0", "--ack", env=env) as (_, (port,)):  # noqa: SIM117
        with socket.create_connection(("127.0.0.1", port)) as first:
            first.sendall(b"123\n1234\n")
            assert receive(first, 10).startswith(b"ACK 1\nERR ")
            with socket.create_connection(("127.0.0.1", port)) as second:
                assert receive(second, 4).startswith(b"ERR ")


def test_a_silent_connection_is_closed(tmp_path: Path) -> None:
    write(tmp_path, "idle_timeout_seconds", "1")
    with listening(tmp_path, "--tcp", "127.0.0.1:0") as (_, (port,)):  # noqa: SIM117
        with socket.create_connection(("127.0.0.1", port), DEADLINE_SECONDS) as peer:
            peer.sendall(b"last")
            assert peer.recv(1) == b""
    assert data_of(tmp_path) == [b"last"]


# ---- log messages ------------------------------------------------------------------------------------------------


def test_log_messages(tmp_path: Path) -> None:
    options = ("--stdin", "--max-line-size-bytes", 3)

    def said(**variables: str) -> list[str]:
        command = [sys.executable, "-m", "kifa", "daemon", "-d", str(tmp_path), *map(str, options)]
        env = {k: v for k, v in os.environ.items() if not k.startswith("KIFA_LOG")} | variables
        found = subprocess.run(command, input=b"long\n", capture_output=True, env=env, check=False)
        assert found.returncode == 8
        return found.stderr.decode().splitlines()

    pattern = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING) kifa\.[\w.]+: .+")
    usual = said()
    assert all(pattern.fullmatch(line) for line in usual)
    assert {line.split()[1] for line in usual} == {"INFO", "WARNING"}
    assert {line.split()[1] for line in said(KIFA_LOG="warning")} == {"WARNING"}
    assert said(KIFA_LOG="error") == []
    chosen = said(KIFA_LOG="error,kifa.daemon=info")
    assert {line.split()[2] for line in chosen} == {"kifa.daemon:"}
    records = [json.loads(line) for line in said(KIFA_LOG_FORMAT="json")]
    assert records[0]["message"] == usual[0].split(": ", 1)[1]
    assert all({"time", "level", "module", "message"} <= set(record) for record in records)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("KIFA_LOG", "loud"), ("KIFA_LOG", "kifa.daemon=loud"), ("KIFA_LOG_FORMAT", "xml")],
)
def test_wrong_log_options(tmp_path: Path, variable: str, value: str) -> None:
    result = run("daemon", "-d", tmp_path, "--stdin", env={variable: value})
    assert result.returncode == 2
    assert result.stderr.decode().startswith(f"kifa: environment: {variable} is '{value}'; it must")


# ---- wrong values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["daemon", "config"])
def test_a_wrong_value_ends_the_process_with_one_line(tmp_path: Path, command: str) -> None:
    def refused(*options: object, **env: str) -> str:
        result = run(command, "-d", tmp_path, *options, env=env)
        assert (result.returncode, result.stdout) == (2, b"")
        assert result.stderr.count(b"\n") == 1
        return result.stderr.decode()

    assert "command line: wal.segment_size_mib is '0'; it must" in refused("--segment-size-mib=0")
    assert "environment: KIFA_ACK is 'maybe'; it must" in refused(KIFA_ACK="maybe")
    write(tmp_path, "compaction_threshold", "1")
    file = tmp_path / "kifa.toml"
    assert f"{file}: storage.compaction_threshold is 1; it must" in refused()
    assert "no such configuration file" in refused("-c", tmp_path / "none")
    assert sorted(tmp_path.iterdir()) == [file]
