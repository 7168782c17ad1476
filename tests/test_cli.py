"""The command line: both parsers agree, and whatever goes wrong is one line and a documented exit code."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kifa.cli import COMPLETION_VARIABLE
from kifa.cli._explained import cli
from kifa.cli._plain import parse
from kifa.cli._table import COMMANDS
from kifa.errors import ExitCode
from tests.conftest import run_python
from tests.daemons import read_until, start
from tests.stores import make_store

KIFA = [sys.executable, "-m", "kifa"]
DEADLINE_SECONDS = 60.0


def run(*arguments: object, **keywords: Any) -> subprocess.CompletedProcess[bytes]:
    """Run the command in an environment where standard output is buffered, unless ``unbuffered``."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    if keywords.pop("unbuffered", False):
        environment["PYTHONUNBUFFERED"] = "1"
    return subprocess.run(
        [*KIFA, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=keywords.pop("stdout", subprocess.PIPE),
        stderr=keywords.pop("stderr", subprocess.PIPE),
        env=environment | keywords.pop("env", {}),
        timeout=DEADLINE_SECONDS,
        check=False,
        **keywords,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "store"
    make_store(path, [[b"line %d %500d" % (n, n) for n in range(1, 8001)]], flush_last=True)
    return path


# ---- two parsers, one meaning ----------------------------------------------------------------------------


def words() -> st.SearchStrategy[list[str]]:
    values = st.sampled_from(
        ["", "x", "/a b", "7", "-7", "007", "+7", " 7", "1_0", "٣", str(2**64), "json", "a=b", "--"]
    )
    names = [name for command in COMMANDS.values() for o in command.options for name in o.names]
    name = st.sampled_from([*names, "--wrong", "--help", "--rev"])
    word = st.one_of(
        name.map(lambda n: [n]),
        values.map(lambda v: [v]),
        st.tuples(name, values).map(list),
        st.tuples(name, values).map(lambda pair: [f"{pair[0]}={pair[1]}"]),
        values.map(lambda v: [f"-d{v}"]),
    )
    return st.lists(word, max_size=6).map(lambda parts: [w for part in parts for w in part])


@given(st.sampled_from(list(COMMANDS)), words())
def test_a_plain_command_line_means_what_click_makes_of_it(name: str, rest: list[str]) -> None:
    plain = parse([name, "-d", "dir", *rest])
    if plain is None:
        return
    command, values = plain
    assert (command, values) == cli.main([name, "-d", "dir", *rest], standalone_mode=False)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "completion"])
def test_every_option_is_plain(name: str) -> None:
    samples = {"number": "5", "choice": "json"}
    line = [name]
    for option in COMMANDS[name].options:
        line += [option.names[-1]]
        line += [] if option.kind == "flag" else [samples.get(option.kind, "some")]
    plain = parse(line)
    assert plain is not None
    assert plain == cli.main(line, standalone_mode=False)
    assert None not in plain[1].values()


def test_plain_commands_load_no_click(store: Path) -> None:
    script = (
        "import sys, kifa.cli\n"
        "try: kifa.cli.main(sys.argv[1:])\n"
        "finally: sys.stderr.write(str('click' in sys.modules))"
    )
    for line in (["--version"], ["query", "-d", store, "--limit", "1"], ["stats", "-d", store]):
        result = run_python(script, *map(str, line))
        assert result.stdout
        assert result.stderr == b"False"


# ---- help, completion, mistakes --------------------------------------------------------------------------


def test_help_names_every_command_and_option() -> None:
    shown = run("--help").stdout.decode()
    for name, command in COMMANDS.items():
        assert f"{name} " in shown
        assert command.summary in shown
        context = click.Context(cli)
        explained = cli.get_command(context, name)  # type: ignore[attr-defined]
        text = explained.get_help(click.Context(explained, info_name=name))
        for option in command.options:
            assert all(spelling in text for spelling in option.names)


def test_shells_complete_commands_and_options() -> None:
    def complete(line: str) -> list[str]:
        shell = {
            COMPLETION_VARIABLE: "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        }
        result = run(env=shell)
        assert (result.returncode, result.stderr) == (0, b"")
        return result.stdout.decode().splitlines()

    assert complete("kifa que") == ["plain,query"]
    assert complete("kifa query --from-") == ["plain,--from-lsn", "plain,--from-time"]
    for shell in ("bash", "zsh", "fish"):
        script = run("completion", shell)
        assert script.returncode == 0
        assert b"_KIFA_COMPLETE" in script.stdout


@pytest.mark.parametrize(
    "line",
    [
        ["wrong"],
        ["query"],
        ["query", "-d"],
        ["query", "-d", "x", "more"],
        ["query", "-d", "x", "--revers"],
        ["query", "-d", "x", "--limit", "-1"],
        ["query", "-d", "x", "--limit", "many"],
        ["query", "-d", "x", "--format", "xml"],
        ["query", "-d", "x", "--from-time", "tomorrow"],
        ["query", "-d", "x", "--from-lsn", "2", "--to-lsn", "1"],
        ["export", "-d", "x"],
        ["daemon", "-d", "x"],
        ["daemon", "-d", "x", "--stdin", "--flush-mode", "fast"],
        ["daemon", "-d", "x", "--stdin=1"],
        ["config"],
        ["config", "-d", "x", "-c", "missing\nfile"],
        ["completion", "tcsh"],
    ],
    ids=" ".join,
)
def test_a_mistake_is_one_line(line: list[str], tmp_path: Path) -> None:
    result = run(*line, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (ExitCode.USAGE, b"")
    assert result.stderr.startswith(b"kifa: ")
    assert result.stderr.count(b"\n") == 1
    assert list(tmp_path.iterdir()) == []


# ---- outputs that cannot be written ----------------------------------------------------------------------

LINES = [
    ["--version"],
    ["--help"],
    ["query", "--help"],
    ["completion", "bash"],
    ["config"],
    ["stats"],
    ["stats", "--json"],
    ["verify"],
    ["query"],
    ["query", "--format", "csv"],
]


def lines_of(store: Path) -> list[list[str]]:
    return [
        [*line, "-d", str(store)]
        if line[0] in COMMANDS and line[0] != "completion" and "--help" not in line
        else line
        for line in LINES
    ]


@pytest.mark.parametrize("unbuffered", [False, True])
def test_a_full_output_is_one_line_and_an_exit_code(store: Path, unbuffered: bool) -> None:
    for line in lines_of(store):
        with Path("/dev/full").open("wb") as full:
            result = run(*line, stdout=full, unbuffered=unbuffered)
        told = b"kifa: standard output cannot be written: No space left on device\n"
        assert (result.returncode, result.stderr) == (ExitCode.FAILURE, told), line


@pytest.mark.parametrize("unbuffered", [False, True])
def test_an_output_that_nobody_reads_is_no_failure(store: Path, unbuffered: bool) -> None:
    for line in lines_of(store):
        reader, writer = os.pipe()
        os.close(reader)
        result = run(*line, stdout=writer, unbuffered=unbuffered)
        os.close(writer)
        assert (result.returncode, result.stderr) == (0, b""), line


def test_a_closed_output_is_one_line_and_an_exit_code(store: Path) -> None:
    for line in lines_of(store):
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *KIFA, *line]
        result = subprocess.run(command, capture_output=True, check=False)
        told = b"kifa: standard output cannot be written: Bad file descriptor\n"
        assert (result.returncode, result.stderr) == (ExitCode.FAILURE, told), line


@pytest.mark.parametrize("unbuffered", [False, True])
def test_errors_that_cannot_be_told_leave_the_exit_code(tmp_path: Path, unbuffered: bool) -> None:
    with Path("/dev/full").open("wb") as full:
        for code, line in ((2, ["query"]), (3, ["stats", "-d", tmp_path / "none"]), (2, [])):
            assert run(*line, stderr=full, unbuffered=unbuffered).returncode == code


# ---- signals, terminals, files that cannot be read -------------------------------------------------------


def default_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell may have had it ignored


@pytest.mark.parametrize("line", [["query", "--format", "json"], ["query"]], ids=" ".join)
def test_an_interrupted_query_says_nothing(store: Path, line: list[str]) -> None:
    process = subprocess.Popen(
        [*KIFA, *line, "-d", str(store)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=default_signals,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        read_until(process.stdout, b"line 1")  # there is more than a pipe holds
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, errors) == (ExitCode.INTERRUPTED, b"")


def on_terminal(line: list[object], **environment: str) -> bytes:
    """What a command says to standard error where that is a terminal."""
    ours, theirs = pty.openpty()
    try:
        run(*line, stderr=theirs, env=environment)
        return os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)


def test_colour_only_on_a_terminal_that_wants_it(tmp_path: Path) -> None:
    line: list[object] = ["stats", "-d", tmp_path]
    assert on_terminal(line).startswith(b"\x1b[31mkifa:\x1b[0m ")
    assert on_terminal(line, NO_COLOR="1").startswith(b"kifa: ")
    assert run(*line).stderr.startswith(b"kifa: ")


@pytest.mark.parametrize("name", ["manifest", "wal", "sst", "wal/0000000000000001.wal"])
@pytest.mark.parametrize("command", ["query", "stats", "verify", "export"])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, command: str) -> None:
    path = tmp_path / "store"
    make_store(path, [[b"x"] * 10])
    (path / name).rename(tmp_path / "aside")
    if (tmp_path / "aside").is_dir():
        (path / name).write_bytes(b"a file where a directory should be")
    else:
        (path / name).mkdir()
    more = ["-o", tmp_path / "out"] if command == "export" else []
    result = run(command, "-d", path, *more)
    assert result.returncode != 0
    assert result.stderr.startswith(b"kifa: ")
    assert result.stderr.count(b"\n") == 1


def test_a_store_of_somebody_else_is_one_line(store: Path, tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    shutil.copytree(store, private / "store")
    # Everything is loaded before, for the interpreter itself may be as private.
    script = (
        "import os, sys, encodings.idna, json, kifa.cli, kifa.cli._plain, kifa.cli.query, kifa.cli.stats\n"
        "import kifa.export, kifa.query, kifa.stats\n"
        "os.geteuid() == 0 and (os.chmod(sys.argv[1], 0o700), os.setuid(65534)) or os.chmod(sys.argv[1], 0)\n"
        "kifa.cli.main(sys.argv[2:])"
    )
    for command in ("query", "stats"):
        result = run_python(script, str(private), command, "-d", str(private / "store"))
        private.chmod(0o700)
        assert result.returncode == ExitCode.NOT_A_STORE
        assert result.stdout == b""
        assert result.stderr.startswith(b"kifa: ")
        assert result.stderr.endswith(b": Permission denied\n")
        assert result.stderr.count(b"\n") == 1


def test_a_daemon_s_help_is_not_the_daemon(tmp_path: Path) -> None:
    process = start(tmp_path / "store", "--help")
    out, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 0
    assert b"--segment-size-mib" in out
    assert not (tmp_path / "store").exists()
