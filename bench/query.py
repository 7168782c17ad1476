"""Reading: a million entries to JSON, and the end and a minute of a large store, as whole processes."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.installation import installation
from bench.lines import different_lines
from bench.process import CommandError, environment, run
from bench.results import FLOOR, KIFA
from bench.session import Session
from bench.tables import MS_PER_ENTRY, START_MS, make_tables

BARE_PIPE = "`cat` of the same output into the same pipe"
READ_SIZE = 1 << 20


def measure(session: Session) -> None:
    """Measure everything of this area."""
    _to_json(session)
    _large_store(session)


def _to_json(session: Session) -> None:
    raw_bytes = session.options.scaled(200 << 20, 20 << 20)
    one = session.measurement("query/json", "query to JSON on a pipe", floor=BARE_PIPE)
    with session.scratch("query") as directory:
        entries = make_tables(directory / KIFA, raw_bytes, tables=4)
        one.what = f"query {entries:,} entries to JSON on a pipe"
        one.parameters |= {
            "entries": entries,
            "condition": "" if entries >= 1_000_000 else f"{entries:,} entries only",
        }
        own = [*installation().kifa, "query", "-d", str(directory / KIFA), "--format", "json"]
        output = directory / "output"
        with output.open("wb") as file:
            run(own, stdout=file)
        commands: dict[str, Sequence[str]] = {FLOOR: ["cat", str(output)], KIFA: own}
        if "sqlite" in session.options.peers and shutil.which("sqlite3"):
            _make_sqlite(directory / "log.db", entries)
            statement = "SELECT lsn, timestamp_ms, data FROM log ORDER BY lsn"
            commands["sqlite"] = ["sqlite3", "-json", str(directory / "log.db"), statement]
        for _ in session.rounds(session.options.rounds, one):
            for name, command in commands.items():
                one.add(name, entries / _seconds_on_pipe(command))


def _make_sqlite(path: Path, entries: int) -> None:
    lines = [line.decode() for line in different_lines(200)]
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE log (lsn INTEGER PRIMARY KEY, timestamp_ms INTEGER, data TEXT)"
        )
        rows = ((START_MS + number, lines[number % len(lines)]) for number in range(entries))
        connection.executemany("INSERT INTO log (timestamp_ms, data) VALUES (?, ?)", rows)
    connection.close()


def _seconds_on_pipe(command: Sequence[str]) -> float:
    """Return how long ``command`` takes while `cat` reads its output."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
        subprocess.run(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL, check=True)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise CommandError(f"{command[0]} ended with {process.returncode}")
    return seconds


def _large_store(session: Session) -> None:
    """The last 10 entries, and one minute from the middle."""
    options = session.options
    size = (10 << 30) if options.long else options.scaled(2 << 30, 128 << 20)
    condition = "" if size >= 10 << 30 else f"{size / (1 << 30):.3g} GiB only"
    with session.scratch("large") as directory:
        session.progress.show(f"make a store of {size >> 20:,} MiB")
        entries = make_tables(directory / KIFA, size, tables=max(size >> 30, 2))
        middle = START_MS + entries // 2 * MS_PER_ENTRY
        base = [*installation().kifa, "query", "-d", str(directory / KIFA)]
        minute = ["--from-time", _time(middle), "--to-time", _time(middle + 59_999)]
        for name, what, options_of_query, expected in (
            ("last-10", "the last 10 entries", ["--reverse", "--limit", "10"], 10),
            ("minute", "a minute of 60,000 entries", minute, 60_000),
        ):
            _selection(session, name, what, [*base, *options_of_query], expected, size, condition)


def _time(time_ms: int) -> str:
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ms % 1000:03d}"


def _selection(
    session: Session,
    name: str,
    what: str,
    command: list[str],
    expected: int,
    size: int,
    condition: str,
) -> None:
    gib = f"{size / (1 << 30):.3g} GiB"
    seconds = session.measurement(
        f"query/{name}",
        f"query {what} of {gib}, whole process",
        "ms",
        higher_is_better=False,
        floor="`python -c pass`",
        size_bytes=size,
        condition=condition,
    )
    memory = session.measurement(
        f"query/{name}-memory",
        f"query {what} of {gib}, resident",
        "MiB",
        higher_is_better=False,
        floor="`python -c pass`",
        size_bytes=size,
        condition=condition,
    )
    found = subprocess.run(command, capture_output=True, check=True, env=environment()).stdout
    lines = found.count(b"\n")
    if lines != expected:
        raise CommandError(f"{lines} entries were found, not {expected}")
    for _ in session.rounds(session.options.rounds, seconds):
        for subject, arguments in ((FLOOR, [installation().python, "-c", "pass"]), (KIFA, command)):
            used = run(arguments)
            seconds.add(subject, used.seconds * 1e3)
            memory.add(subject, used.peak_mib)
