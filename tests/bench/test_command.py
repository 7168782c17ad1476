"""``kifa-bench`` for real, on a tiny scale."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.results import load_run
from tests.bench.runs import bench

TINY = ("--quick", "--rounds", "1", "--size", "200", "--mode", "cautious", "--group", "1,50")


def loop_devices() -> str:
    return subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=False).stdout


def measured(area: str, directory: Path, *options: str) -> Path:
    """Run one area, and check what every run must leave behind."""
    file, page = directory / "run.json", directory / "run.html"
    work = directory / "work"
    work.mkdir()
    arguments = [area, *TINY, *options, "--dir", work, "--json", file, "--html", page]
    result = bench(*arguments)
    assert result.returncode == 0, result.stderr
    assert list(work.iterdir()) == []
    assert str(work) not in loop_devices()
    assert page.read_text().startswith("<!DOCTYPE html>")
    run = load_run(file)
    assert run.measurements
    for one in run.measurements:
        assert one.series["kifa"], one.name
        assert all(value >= 0 for values in one.series.values() for value in values)
        assert one.what in result.stdout
    return file


@pytest.mark.timeout(300)
def test_append_beside_every_peer(tmp_path: Path) -> None:
    peers = "sqlite,lmdb,rocksdb,leveldb,plain"
    options = ("--mode", "cautious,normal", "--clients", "2", "--peers", peers)
    run = load_run(measured("append", tmp_path, *options))
    single = run.find("append/cautious/200/1")
    assert single is not None
    assert {*single.series} == {"kifa", "floor", *peers.split(",")}
    assert {*single.latencies} == {*single.series}
    assert [*single.not_equal] == ["plain"]
    names = {one.name for one in run.measurements}
    assert {"append/normal/200/1", "append_many/50", "threads/2", "append/over-many"} <= names


@pytest.mark.timeout(300)
@pytest.mark.parametrize("area", ["ingest", "recover", "query", "footprint"])
def test_area(area: str, tmp_path: Path) -> None:
    file = measured(area, tmp_path, "--clients", "2", "--peers", "sqlite")
    data = json.loads(file.read_text())
    names = {one["name"] for one in data["measurements"]}
    # A name in the table of limits that no measurement has would never be judged.
    limited = {limit["measurement"] for limit in data["limits"]}
    assert {name for name in limited if name.startswith(f"{area}/")} <= names
    judged = [limit for limit in data["limits"] if limit["measurement"] in names]
    assert all(limit["measured"] is not None for limit in judged)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peers", "postgres"], "'postgres' is no peer; choose from sqlite"),
        (["append", "--size", "0"], "1 to 1,048,576"),
        (["append", "--size", "1,2,3,4,5,6,7,8,9"], "at most 8"),
        (["append", "--group", "five"], "no list of whole numbers"),
        (["append", "--mode", "reckless"], "no flush mode"),
        (["append", "--mode", ""], "no flush mode"),
        (["append", "--clients", "100000"], "1 to 512"),
        (["append", "--rounds", "0"], "--rounds"),
        (["append", "--dir", "/nowhere"], "/nowhere"),
        (["everything"], "everything"),
    ],
)
def test_wrong_options_are_one_line(arguments: list[str], said: str) -> None:
    result = bench(*arguments)
    assert result.returncode == 2
    assert said in result.stderr
    assert result.stderr.startswith("kifa-bench: ")
    assert result.stderr.count("\n") == 1


def test_a_peer_that_is_not_installed_is_named(tmp_path: Path) -> None:
    """Nothing of the environment is taken away: a directory that hides the package does."""
    hide = "import importlib.metadata as m, sys\nfind = m.version\n"
    hide += "def version(name):\n if name == 'lmdb': raise m.PackageNotFoundError(name)\n"
    hide += " return find(name)\nm.version = version\n"
    hide += "from bench.cli import main\nmain(['append', '--peers', 'lmdb'])\n"
    script = tmp_path / "script.py"
    script.write_text(hide)
    from tests.conftest import run_python

    result = run_python(hide)
    assert result.returncode == 2
    assert b"lmdb is not installed: pip install 'kifa[bench]'" in result.stderr.replace(
        b"lmdb, which is", b"lmdb is"
    )


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    """On a file system of its own, which ends with the process that made it."""
    mount = f"mount -t tmpfs -o size=24m none {tmp_path}"
    command = f"{sys.executable} -m bench append --quick --peers sqlite --dir {tmp_path}"
    result = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{mount} && exec {command}"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert result.returncode == 7, result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("kifa-bench: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", [[], ["append"], ["check"], ["report"]])
def test_help(command: list[str]) -> None:
    result = bench(*command, "--help")
    assert result.returncode == 0
    assert "--help" in result.stdout


def test_report_makes_the_document(tmp_path: Path) -> None:
    from tests.bench.runs import made_up, save

    file = save(tmp_path / "run.json", made_up())
    document, page = tmp_path / "PERFORMANCE.md", tmp_path / "run.html"
    result = bench("report", file, "--markdown", document, "--html", page)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert document.read_text().startswith("# Performance\n")
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert "append, 1 thread" in bench("report", file).stdout
