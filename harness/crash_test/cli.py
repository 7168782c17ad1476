"""The command ``kifa-crash-test``."""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from harness.crash_test import self_check
from harness.crash_test.errors import CrashTestError, SettingsError
from harness.crash_test.report import write_report
from harness.crash_test.results import ExitCode, RunResult
from harness.crash_test.run import Run, default_kifa_bin
from harness.crash_test.settings import (
    DEFAULT_BASE_IMAGE,
    FAULTS,
    LYING_PROFILE,
    MIXED,
    POWERS,
    PROFILES,
    RUNNERS,
    SOURCES,
    Settings,
)
from harness.crash_test.summary import Reporter, closing, opening
from harness.crash_test.targets.registry import TARGETS
from harness.oracle import FlushMode

_directory = click.Path(path_type=Path, file_okay=False)
_existing_directory = click.Path(path_type=Path, file_okay=False, exists=True)
_fifo = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.option("-n", "--cycles", default=100, type=click.IntRange(1), help="How many cycles.")
@click.option(
    "--flush-mode", default="cautious", type=click.Choice([mode.value for mode in FlushMode])
)
@click.option(
    "-r",
    "--rate",
    default=500.0,
    type=click.FloatRange(0),
    help="Lines per second; 0 is unthrottled.",
)
@click.option(
    "-d",
    "--data-dir",
    type=_directory,
    help="Where disk, journal and evidence are made.  [default: a temporary directory]",
)
@click.option(
    "--seed", type=int, help="Same seed, same lines, moments and faults.  [default: drawn]"
)
@click.option(
    "--power",
    type=click.Choice(POWERS),
    help="What a cut takes: lazyfs all that is not synced, sigkill nothing that was written.  "
    "[default: lazyfs where /dev/fuse works]",
)
@click.option(
    "--profile",
    default="lazyfs",
    type=click.Choice([*PROFILES, LYING_PROFILE, MIXED]),
    help="What lazyfs keeps in a power loss; see `lazyfs profiles`.",
)
@click.option(
    "--runner", default="local", type=click.Choice(RUNNERS), help="Where the target runs."
)
@click.option(
    "--base-image",
    default=DEFAULT_BASE_IMAGE,
    envvar="KIFA_BASE_IMAGE",
    help="What the image of --runner docker stands on.",
)
@click.option(
    "--source", default="stdin", type=click.Choice([*SOURCES, MIXED]), help="How lines get in."
)
@click.option(
    "--target",
    default="kifa",
    type=click.Choice(list(TARGETS)),
    help="What is tested: the daemon (kifa), threads of a program that has the library in it (kifa-embedded, with "
    "--source unix), or others, good and bad, to compare.",
)
@click.option(
    "--faults", default="none", type=click.Choice([*FAULTS, MIXED]), help="What else goes wrong."
)
@click.option(
    "--feed-seconds",
    default=1.0,
    type=click.FloatRange(0.01),
    help="The longest feed of a cycle.",
)
@click.option(
    "--patience-seconds",
    default=30.0,
    type=click.FloatRange(0.1),
    help="How long the target may take to start, or to answer a line.",
)
@click.option(
    "--report", "report_dir", type=_directory, help="Write report.json, JUnit XML and report.html."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--keep", is_flag=True, help="Keep the evidence of cycles that passed, too.")
@click.option("--kifa-bin", help="The kifa to test.  [default: the one installed beside this]")
@click.option(
    "--lazyfs-root",
    type=_existing_directory,
    help="A mounted LazyFS that somebody else runs; stores are made in it.",
)
@click.option("--lazyfs-fifo", type=_fifo, help="Its FIFO for commands.")
@click.option("--lazyfs-completed-fifo", type=_fifo, help="Its FIFO for answers.")
@click.pass_context
def cli(context: click.Context, /, **options: Any) -> int:
    """Feed a store, cut its power at the worst moments, and judge what is left by content.

    \b
    Exit codes: 0 every cycle passed and something was measured, 1 a promise was broken, 2 wrong options,
    3 nothing was at stake in a cycle or the harness itself is wrong, 4 something that is needed is missing,
    130 interrupted, 143 terminated.
    """
    if context.invoked_subcommand is not None:
        return int(ExitCode.PASSED)
    settings = settings_of(**options)
    out = sys.stderr if settings.json else sys.stdout
    with Reporter(settings.cycles, out) as reporter:
        reporter.say(opening(settings))
        with Run(settings) as run:
            result = run.run(reporter.cycle)
        reporter.say(closing(result))
    _publish(result)
    return int(result.exit_code)


@cli.command("self-check")
@click.option("--seed", default=self_check.SEED, help="Of all runs.")
@click.option("--kifa-bin", help="The kifa to test.  [default: the one installed beside this]")
@click.option(
    "--write-docs",
    "docs",
    type=_existing_directory,
    help="Write the table into docs/TESTING.md below this directory, and a comparison into README.md.",
)
def self_check_command(seed: int, kifa_bin: str | None, docs: Path | None) -> int:
    """Prove that the test can fail: each broken subject gets its verdict, and honest ones pass."""
    base = Settings(
        seed=seed, kifa_bin=kifa_bin or default_kifa_bin(), rate=2_000, feed_seconds=0.15
    )
    outcomes: list[self_check.Outcome] = []

    def told(outcome: self_check.Outcome) -> None:
        outcomes.append(outcome)
        subject = outcome.subject
        mark = "ok   " if outcome.is_right else "WRONG"
        click.echo(f"{mark} {outcome.verdict:<14} expected {subject.expected:<14} {subject.what}")

    is_right = self_check.check(base, self_check.SUBJECTS, told)
    if docs is not None:
        table = self_check.table(outcomes)
        self_check.write_between(docs / "docs" / "TESTING.md", "self-check", table)
        comparison = self_check.compare(
            base, lambda target, profile, run: click.echo(f"{target} {profile}: {run.verdicts}")
        )
        self_check.write_between(docs / "README.md", "comparison", comparison)
    return int(ExitCode.PASSED if is_right else ExitCode.FAILED)


def _publish(result: RunResult) -> None:
    if result.settings.report_dir is not None:
        write_report(result, result.settings.report_dir)
    if result.settings.json:
        click.echo(json.dumps(result.to_json()))


def settings_of(**options: Any) -> Settings:
    """Return the settings that the options describe.

    Raises:
        SettingsError: they do not go together.
    """
    options["json"] = options.pop("as_json")
    options["flush_mode"] = FlushMode(options["flush_mode"])
    options["kifa_bin"] = options["kifa_bin"] or default_kifa_bin()
    if options["seed"] is None:
        options["seed"] = secrets.randbelow(1_000_000)
    if options["power"] is None:
        brings_disk = options["lazyfs_root"] or options["runner"] == "docker"
        options["power"] = "lazyfs" if brings_disk or os.access("/dev/fuse", os.W_OK) else "sigkill"
    settings = Settings(**options)
    settings.check()
    return settings


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(int(_run(arguments)))


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    # As an exception, so that everything that was begun is taken down on the way out.
    sys.exit(ExitCode.TERMINATED)


def _run(arguments: list[str] | None) -> int:
    try:
        code = cli.main(arguments, prog_name="kifa-crash-test", standalone_mode=False)
        return int(code or ExitCode.PASSED)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except SettingsError as error:
        return _fail(str(error), ExitCode.USAGE)
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; everything was taken down", ExitCode.INTERRUPTED)
    except CrashTestError as error:
        return _fail(str(error), ExitCode.MISSING)
    except OSError as error:
        return _fail(f"{error.filename or 'the harness'}: {error.strerror}", ExitCode.MISSING)


def _fail(message: str, code: ExitCode) -> int:
    print(f"kifa-crash-test: {message}", file=sys.stderr)
    return code
