"""``kifa-bench``: measures Kifa beside its floor and its peers."""

from __future__ import annotations

import errno
import json
import platform
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from bench import text
from bench.environment import describe
from bench.instructions import CannotCountError
from bench.peers import PEERS, PeerError, check_peers, installed_version
from bench.process import CommandError
from bench.results import Run, RunFileError, load_json, load_run
from bench.session import Options, Progress, Session
from kifa.config import FLUSH_MODES
from kifa.errors import ExitCode, KifaError

AREAS = ("append", "ingest", "recover", "query", "footprint")
ALL = "all"
MAX_LIST = 8
FULL_BELOW_BYTES = 32 << 20
FLAGS_OF_GROUP = ("-h", "--help", "--version")


class Numbers(click.ParamType[Any]):
    """A list of whole numbers, by comma."""

    name = "list"

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = _split(value, self, param, ctx)
        if not all(part.isascii() and part.isdigit() for part in parts):
            self.fail(f"{value!r} is no list of whole numbers, such as 50,500", param, ctx)
        numbers = tuple(map(int, parts))
        if not all(self._least <= number <= self._most for number in numbers):
            self.fail(f"each must be {self._least:,} to {self._most:,}", param, ctx)
        return numbers


class Names(click.ParamType[Any]):
    """A list of names, by comma."""

    name = "list"

    def __init__(self, known: tuple[str, ...], word: str, *, may_be_empty: bool = False) -> None:
        self._known, self._word, self._may_be_empty = known, word, may_be_empty

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        if value == "" and self._may_be_empty:
            return ()
        names = _split(value, self, param, ctx)
        for name in names:
            if name not in self._known:
                known = ", ".join(self._known)
                self.fail(f"{name!r} is no {self._word}; choose from {known}", param, ctx)
        return tuple(names)


def _split(
    value: str, kind: click.ParamType[Any], param: click.Parameter | None, ctx: click.Context | None
) -> list[str]:
    parts = list(dict.fromkeys(part.strip() for part in value.split(",")))
    if len(parts) > MAX_LIST:
        kind.fail(f"at most {MAX_LIST} at a time, not {len(parts)}", param, ctx)
    return parts


DEFAULTS = Options()
_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS = (
    click.option(
        "--size",
        "sizes",
        type=Numbers(1, 1 << 20),
        default=DEFAULTS.sizes,
        help="Entry sizes, bytes.",
    ),
    click.option(
        "--mode",
        "modes",
        type=Names(FLUSH_MODES, "flush mode"),
        default=DEFAULTS.modes,
        help="Flush modes.",
    ),
    click.option(
        "--group",
        "groups",
        type=Numbers(1, 100_000),
        default=DEFAULTS.groups,
        help="Entries for each sync of append_many.",
    ),
    click.option(
        "--clients",
        type=Numbers(1, 512),
        default=DEFAULTS.clients,
        help="Threads, and clients of the daemon.",
    ),
    click.option(
        "--peers",
        type=Names(tuple(PEERS), "peer", may_be_empty=True),
        help=f"Peers: {','.join(PEERS)}; '' for none. Default: those installed.",
    ),
    click.option(
        "--rounds", type=click.IntRange(1, 100), default=DEFAULTS.rounds, show_default=True
    ),
    click.option(
        "--dir",
        "directory",
        type=click.Path(file_okay=False, exists=True, path_type=Path),
        help="Where to write; default: the directory for temporary files.",
    ),
    click.option("--quick", is_flag=True, help="Small and fast: shows that it works."),
    click.option("--long", is_flag=True, help="Stores of 10 GiB."),
    click.option("--json", "json_file", type=_FILE, help="Write the run as JSON."),
    click.option("--html", "html_file", type=_FILE, help="Write the run as one HTML page."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kifa", prog_name="kifa-bench")
def cli() -> None:
    """Measure Kifa beside the bare system calls and beside its peers, in the same rounds.

    Without a command, everything is measured. Sizes vary at one entry a sync, groups and modes at 200 B.
    Exit codes: 0 done; 1 something failed, or something became worse; 2 wrong option; 7 the disk is full.
    """


def _measuring(name: str) -> Callable[..., None]:
    def measure(
        directory: Path | None, json_file: Path | None, html_file: Path | None, **given: Any
    ) -> None:
        if given["peers"] is None:
            given["peers"] = tuple(peer for peer in PEERS if installed_version(peer))
        check_peers(given["peers"])
        options = Options(**given)
        run = measure_areas(AREAS if name == ALL else (name,), options, directory)
        click.echo(text.report(run), nl=False)
        if json_file:
            run.save(json_file)
        _write_reports(run, html_file)

    return measure


def measure_areas(areas: tuple[str, ...], options: Options, parent: Path | None) -> Run:
    """Measure ``areas`` in a temporary directory below ``parent``."""
    progress = Progress()
    with tempfile.TemporaryDirectory(prefix="kifa-bench-", dir=parent) as name:
        directory = Path(name)
        session = Session(directory, options, progress)
        header = describe(directory, options.peers, ["kifa-bench", *sys.argv[1:]])
        try:
            for area in areas:
                import_module(f"bench.{area}").measure(session)
        except Exception as error:
            if shutil.disk_usage(directory).free < FULL_BELOW_BYTES:
                raise OSError(errno.ENOSPC, str(error)) from error  # in words of each peer's own
            raise
        finally:
            progress.clear()
    return Run(header, session.measurements)


for _name, _help in (
    ("append", "Appending through the library: sizes, modes, groups, threads."),
    ("ingest", "The daemon: streams, bursts, lone lines, clients, beside a compaction."),
    ("recover", "Reopening and compaction."),
    ("query", "Reading."),
    ("footprint", "Device writes, bytes at rest, memory, wake-ups, start-up."),
    (ALL, "Everything (the default)."),
):
    _command = click.command(_name, help=_help)(_measuring(_name))
    for _option in reversed(_OPTIONS):
        _command = _option(_command)
    cli.add_command(_command)


@cli.command()
@click.argument("run_file", metavar="[RUN]", required=False, type=_FILE)
@click.option(
    "--against", required=True, type=_FILE, help="A stored run, or stored counts of instructions."
)
@click.option(
    "--bound",
    default=25.0,
    show_default=True,
    type=click.FloatRange(0),
    help="What may become worse, percent.",
)
@click.option("--update", is_flag=True, help="Write what was counted to --against instead.")
def check(run_file: Path | None, against: Path, bound: float, update: bool) -> int:
    """Tell what became worse: of RUN (or of a new quick run), or in the count of instructions.

    With stored counts of instructions the workloads run under valgrind, and give the same on a busy machine.
    """
    from bench import check, instructions

    stored = {"kind": instructions.KIND} if update else load_json(against)
    if stored.get("kind") == instructions.KIND:
        counts = instructions.count_instructions()
        if update:
            against.write_text(json.dumps(instructions.to_json(counts), indent=1) + "\n")
            return ExitCode.OK
        if stored.get("python") != platform.python_version():
            click.echo(
                f"stored counts are of Python {stored.get('python')}, not of this one", err=True
            )
        found = check.compare_counts(instructions.from_json(stored), counts, bound / 100)
    else:
        before = load_run(against)
        if run_file is None:
            peers = tuple(peer for peer in PEERS if installed_version(peer))
            after = measure_areas(AREAS, Options(peers=peers, quick=True), None)
        else:
            after = load_run(run_file)
        found = check.compare_runs(before, after, bound / 100)
    if not found:
        raise RunFileError(f"{against} has nothing in common with what was measured")
    click.echo(check.report(found, bound / 100), nl=False)
    return ExitCode.FAILURE if any(one.verdict == "worse" for one in found) else ExitCode.OK


@cli.command()
@click.argument("run_files", metavar="RUN...", type=_FILE, nargs=-1, required=True)
@click.option("--html", "html_file", type=_FILE, help="Write one HTML page.")
@click.option("--markdown", "markdown_file", type=_FILE, help="Write docs/PERFORMANCE.md.")
def report(run_files: tuple[Path, ...], html_file: Path | None, markdown_file: Path | None) -> None:
    """Write reports of a stored run; without options, print it as text.

    Of several runs the later ones replace what they measured again; the header then has all commands.
    """
    run = reduce(Run.measured_again, map(load_run, run_files))
    if not html_file and not markdown_file:
        click.echo(text.report(run), nl=False)
    _write_reports(run, html_file, markdown_file)


def _write_reports(run: Run, html_file: Path | None, markdown_file: Path | None = None) -> None:
    if html_file:
        from bench.html import page

        html_file.write_text(page(run))
    if markdown_file:
        from bench.markdown import performance, read_reasons

        reasons = read_reasons(markdown_file.with_suffix(".reasons.toml"))
        markdown_file.write_text(performance(run, reasons))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    # Mounts, loop devices and daemons must not outlive it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(ExitCode.TERMINATED))
    given = sys.argv[1:] if arguments is None else arguments
    if not given or (given[0].startswith("-") and given[0] not in FLAGS_OF_GROUP):
        given = [ALL, *given]
    sys.exit(_run(given))


def _run(arguments: list[str]) -> int:
    try:
        code: Any = cli.main(arguments, prog_name="kifa-bench", standalone_mode=False)
        sys.stdout.flush()
        return int(code or ExitCode.OK)
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    except click.ClickException as error:
        return _complain(error.format_message(), ExitCode.USAGE)
    except (PeerError, RunFileError) as error:
        return _complain(str(error), ExitCode.USAGE)
    except KifaError as error:
        return _complain(str(error), error.exit_code)
    except (CommandError, CannotCountError) as error:
        return _complain(str(error), ExitCode.FAILURE)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return _complain(
                "the disk is full: choose another with --dir, or measure less with --quick",
                ExitCode.NO_SPACE,
            )
        return _complain(str(error), ExitCode.FAILURE)


def _complain(message: str, code: int) -> int:
    click.echo(f"kifa-bench: {message}", err=True)
    return int(code)


if __name__ == "__main__":
    main()
