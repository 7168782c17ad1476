"""Exports appear whole or not at all; the commands that read, as processes."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from kifa.errors import DamagedError, ExitCode, UnwritableError, UsageError
from kifa.export import export_entries
from kifa.query import Reader, Selection
from tests.stores import files_of, make_store, retire_log, sample

COMMAND = "from kifa.cli import main; main()"


def run(*arguments: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)], capture_output=True, check=False
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    make_store(
        path, [[b"line %d" % n for n in range(1, 51)], [b"line %d" % n for n in range(51, 101)]]
    )
    return path


def test_an_export_is_what_a_query_prints(store: Path, tmp_path: Path) -> None:
    for kind in ("text", "json", "csv", "hex"):
        target = tmp_path / f"out.{kind}"
        bounds = ("--from-lsn", 40, "--to-lsn", 60, "--reverse", "--limit", 15, "--format", kind)
        exported = run("export", "-d", store, "-o", target, *bounds)
        assert (exported.returncode, exported.stdout, exported.stderr) == (0, b"", b"")
        printed = run("query", "-d", store, *bounds)
        assert (printed.returncode, printed.stderr) == (0, b"")
        assert target.read_bytes() == printed.stdout
        assert len(printed.stdout.splitlines()) == 15 + (kind == "csv")


def test_queries_print_what_was_asked_for(store: Path) -> None:
    values = [
        json.loads(line)
        for line in run("query", "-d", store, "--format", "json").stdout.splitlines()
    ]
    assert [value["lsn"] for value in values] == list(range(1, 101))
    assert [value["data"] for value in values] == [f"line {n}" for n in range(1, 101)]
    rows = list(
        csv.DictReader(run("query", "-d", store, "--format", "csv").stdout.decode().splitlines())
    )
    assert [row["data"] for row in rows] == [f"line {n}" for n in range(1, 101)]
    today = values[0]["timestamp"][:10]
    tomorrow = run("query", "-d", store, "--from-time", today, "--to-time", "now", "--limit", 3)
    assert len(tomorrow.stdout.splitlines()) == 3
    assert run("query", "-d", store, "--to-time", "1h").stdout == b""


def test_a_reader_that_has_seen_enough_is_no_error(store: Path) -> None:
    command = [sys.executable, "-c", COMMAND, "query", "-d", str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_stats_and_verify_print_json(store: Path) -> None:
    stats = json.loads(run("stats", "-d", store, "--json").stdout)
    assert (stats["total_entries"], stats["checkpoint_lsn"]) == (100, 50)
    assert run("stats", "-d", store).stdout.startswith(b"Storage:\n  Total entries: 100\n")
    report = json.loads(run("verify", "-d", store, "--json").stdout)
    assert (report["intact"], report["entries"]) == (True, 100)
    assert run("verify", "-d", store).stdout.endswith(b"100 entries: no damage\n")


def test_impossible_selections_are_usage_errors(store: Path) -> None:
    for wrong in (
        *(("--from-lsn", "x"), ("--limit", -1), ("--format", "xml"), ("--to-lsn", 2**64)),
        *(("--from-time", "yesterday"), ("--from-lsn", 9, "--to-lsn", 8)),
    ):
        result = run("query", "-d", store, *wrong)
        assert (result.returncode, result.stdout) == (ExitCode.USAGE, b"")
        assert str(wrong[1]).encode() in result.stderr


@pytest.mark.parametrize("command", ["query", "export", "stats", "verify"])
def test_no_store_is_one_line_and_nothing_is_created(tmp_path: Path, command: str) -> None:
    output = ("-o", tmp_path / "file") if command == "export" else ()
    for path in (tmp_path, tmp_path / "absent"):
        result = run(command, "-d", path, *output)
        assert (result.returncode, result.stdout) == (ExitCode.NOT_A_STORE, b"")
        assert result.stderr.decode().count("\n") == 1
        assert str(path) in result.stderr.decode()
    assert list(tmp_path.iterdir()) == []


def test_damage_has_its_exit_code_and_all_else_is_printed(store: Path) -> None:
    retire_log(store)
    (table, *_) = sorted((store / "sst").iterdir())
    content = bytearray(table.read_bytes())
    content[100] ^= 1
    table.write_bytes(content)
    for command in (("query",), ("query", "--reverse"), ("query", "--format", "csv")):
        result = run(*command, "-d", store)
        assert result.returncode == ExitCode.DAMAGED
        assert len(result.stdout.splitlines()) == 51 + ("csv" in command)
        assert result.stderr.decode().count("\n") == 1
        assert f"sst/{table.name}" in result.stderr.decode()
        assert "LSNs 1 to 50" in result.stderr.decode()
    assert run("query", "-d", store, "--from-lsn", 51).returncode == 0
    verified = run("verify", "-d", store, "--json")
    assert verified.returncode == ExitCode.DAMAGED
    report = json.loads(verified.stdout)
    assert report["lost"] == [[1, 50]]
    assert report["damage"][0]["offset"] == 64
    table.unlink()
    stats = run("stats", "-d", store)
    assert stats.returncode == ExitCode.DAMAGED
    assert b"  Gaps: 1 (50 entries lost: LSN 1-50)\n" in stats.stdout


def test_a_failed_export_leaves_the_old_file(store: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "file").write_bytes(b"old")
    reader = Reader(store)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_entries(reader, Selection(), "json", folder / "file", interrupt)
    assert files_of(folder) == {folder / "file": b"old"}
    with pytest.raises(UnwritableError, match="absent"):
        export_entries(reader, Selection(), "json", folder / "absent" / "file")
    with pytest.raises(UsageError, match="not a file"):
        export_entries(reader, Selection(), "json", folder)
    with pytest.raises(UsageError, match="null"):
        export_entries(reader, Selection(), "json", Path("/dev/null"))


def test_a_full_disk_leaves_the_old_file(store: Path, tmp_path: Path) -> None:
    """The limit on file sizes stands for a full disk: writing fails half-way."""
    target = tmp_path / "file"
    target.write_bytes(b"old")
    limited = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    limited += "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100));"
    result = subprocess.run(
        [sys.executable, "-c", limited + COMMAND, "export", "-d", store, "-o", target],
        capture_output=True,
        check=False,
    )
    assert result.returncode == ExitCode.UNWRITABLE
    assert b"nothing was changed" in result.stderr
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["file"]


def test_damage_leaves_the_rest_in_the_file(tmp_path: Path) -> None:
    store = tmp_path / "store"
    make_store(store, [sample(5, seed=1), sample(5, seed=2)], flush_last=True)
    for segment in (store / "wal").iterdir():
        if segment.suffix == ".wal":
            segment.write_bytes(segment.read_bytes()[:8192])
    (store / "sst" / f"{1:016x}-{5:016x}.sst").unlink()
    with pytest.raises(DamagedError):
        export_entries(Reader(store), Selection(to_lsn=10), "hex", tmp_path / "file")
    assert len((tmp_path / "file").read_bytes().splitlines()) == 5
