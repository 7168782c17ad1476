"""The numbers of the store, each beside its floor of the same round. ``python -m bench.store --help``."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import click

import kifa
from bench._floor import durable_writes

ENTRY = b"x" * 200
BLOCK_SIZE = 4096
RUN_AND_TELL_PEAK = (
    "import resource, subprocess, sys\n"
    "subprocess.run(sys.argv[1:], check=True)\n"
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)\n"
)


def rate_of(count: int, work: Callable[[], object]) -> float:
    """Return how many of ``count`` per second ``work`` did."""
    started = time.perf_counter()
    work()
    return count / (time.perf_counter() - started)


def floor_rate(directory: Path, size_bytes: int = BLOCK_SIZE, count: int = 2_000) -> float:
    """Return bare durable writes per second."""
    padded = (size_bytes + BLOCK_SIZE - 1) // BLOCK_SIZE * BLOCK_SIZE
    return count / sum(durable_writes(str(directory / "floor"), padded, count))


def report(name: str, unit: str, values: list[float], ratios: list[float], floor: str) -> None:
    """Print medians; the ratio's spread tells how far to trust it."""
    ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
    click.echo(f"| {name} | {statistics.median(values):,.0f} {unit} | {ratio} | {floor} |")


def append_rounds(directory: Path, rounds: int) -> None:
    """One thread and many, after the segments were written once."""
    results: dict[int, list[float]] = {1: [], 2: [], 8: [], 32: []}
    floors: list[float] = []
    with kifa.open(directory / "append") as log:
        for _ in range(6 * 4096):
            log.append(ENTRY)
        for _ in range(rounds):
            floors.append(floor_rate(directory))
            for threads, rates in results.items():
                rates.append(threaded_rate(log, threads, 3_000 if threads == 1 else 12_000))
    for threads, rates in results.items():
        base = floors if threads == 1 else results[1]
        name = "bare C loop, same round" if threads == 1 else "one thread, same round"
        ratios = [rate / other for rate, other in zip(rates, base, strict=True)]
        report(f"append, {threads} thread(s)", "/s", rates, ratios, name)


def threaded_rate(log: kifa.Log, threads: int, count: int) -> float:
    def work() -> None:
        for _ in range(count // threads):
            log.append(ENTRY)

    def run() -> None:
        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return rate_of(count, run if threads > 1 else work)


def batch_rounds(directory: Path, rounds: int) -> None:
    """append_many beside bare writes of as many bytes."""
    with kifa.open(directory / "batch") as log:
        for _ in range(60):
            log.append_many([ENTRY] * 5_000)
        log.flush()
        for size in (50, 500, 5_000):
            items, repeats = [ENTRY] * size, max(20_000 // size, 8)
            rates, ratios = [], []
            for _ in range(rounds):
                floor = floor_rate(directory, size * 240, repeats) * size
                started = time.perf_counter()
                for _ in range(repeats):
                    log.append_many(items)
                rates.append(repeats * size / (time.perf_counter() - started))
                ratios.append(rates[-1] / floor)
            report(f"append_many of {size}", "lines/s", rates, ratios, "bare C loop, same bytes")


def feed_daemon(store: Path, lines: Path, from_pipe: bool) -> float:
    """Return the seconds from start to end of `kifa daemon --stdin` for the file ``lines``."""
    command = [sys.executable, "-m", "kifa", "daemon", "--stdin", "-d", str(store)]
    environment = {**os.environ, "KIFA_LOG": "warning"}
    started = time.perf_counter()
    if from_pipe:
        with subprocess.Popen(["cat", str(lines)], stdout=subprocess.PIPE) as cat:
            subprocess.run(command, stdin=cat.stdout, env=environment, check=True)
    else:
        with lines.open("rb") as content:
            subprocess.run(command, stdin=content, env=environment, check=True)
    return time.perf_counter() - started


def write_lines(path: Path, count: int) -> None:
    """Write ``count`` generated transactions."""
    with path.open("wb") as output:
        command = [sys.executable, "-m", "harness.generate", "-n", str(count), "-s", "1"]
        subprocess.run(command, stdout=output, check=True)


def ingest_rounds(directory: Path, rounds: int, count: int) -> None:
    """The whole daemon, start-up, flush, compression and compaction included."""
    lines = directory / "lines"
    write_lines(lines, count)
    raw = lines.stat().st_size
    for source in ("file", "pipe"):
        seconds = []
        for _ in range(rounds):
            shutil.rmtree(directory / "ingest", ignore_errors=True)
            seconds.append(feed_daemon(directory / "ingest", lines, source == "pipe"))
        rates = [count / value for value in seconds]
        bytes_rates = [raw / value / 1e6 for value in seconds]
        click.echo(
            f"| daemon from a {source}, {count:,} transactions | {statistics.median(rates):,.0f} lines/s |"
            f" {statistics.median(bytes_rates):,.0f} MB/s | start to exit |"
        )
    with kifa.open(directory / "ingest") as log:
        log.flush()
        log.compact()
    tables = sum(path.stat().st_size for path in (directory / "ingest" / "sst").iterdir())
    click.echo(
        f"| at rest after compaction | {tables / 1e6:,.1f} MB | {tables / raw:.3f} of raw | |"
    )


def reopen_rounds(directory: Path, rounds: int) -> None:
    """Reopening after a kill and after a clean close."""
    fill = (
        "import os, signal, sys, kifa\n"
        "log = kifa.open(sys.argv[1], **eval(sys.argv[2]))\n"
        "for _ in range(int(sys.argv[3])): log.append_many([b'x' * 200] * 1000)\n"
        "for _ in range(int(sys.argv[4])): log.append(b'x' * 200)\n"
        "os.kill(os.getpid(), signal.SIGKILL) if sys.argv[5] == 'kill' else log.close()\n"
    )
    large = {"memtable_flush_threshold_mib": 1024, "segment_size_mib": 128}
    for name, settings, batches, singles, end in (
        ("after a kill, default settings, 300,000 entries before", {}, 300, 2_000, "kill"),
        ("after a clean close, default settings", {}, 300, 2_000, "close"),
        ("after a kill, 1,000,000 entries in the WAL", large, 1_000, 0, "kill"),
    ):
        seconds = []
        for _ in range(rounds):
            store = directory / "reopen"
            shutil.rmtree(store, ignore_errors=True)
            arguments = [str(store), repr(settings), str(batches), str(singles), end]
            result = subprocess.run([sys.executable, "-c", fill, *arguments], check=False)
            assert result.returncode in (0, -signal.SIGKILL)
            started = time.perf_counter()
            with kifa.open(store, **settings):  # type: ignore[arg-type]
                seconds.append(time.perf_counter() - started)
        click.echo(f"| reopen {name} | {statistics.median(seconds) * 1e3:,.1f} ms | | |")


def read_rounds(directory: Path, rounds: int) -> None:
    """Query of what `ingest_rounds` left, and the memory it takes."""
    store = directory / "ingest"
    total = kifa.reader(store).stats().total_entries
    command = [sys.executable, "-m", "kifa", "query", "-d", str(store), "--format", "json"]
    rates, peaks = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        # A process starts with the peak of the one that made it: a small one must make the query.
        with subprocess.Popen(
            [sys.executable, "-c", RUN_AND_TELL_PEAK, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as query:
            subprocess.run(["cat"], stdin=query.stdout, stdout=subprocess.DEVNULL, check=True)
            rates.append(total / (time.perf_counter() - started))
            assert query.stderr is not None
            peaks.append(int(query.stderr.read()) / 1024)
    click.echo(
        f"| query to JSON on a pipe, {total:,} entries | {statistics.median(rates):,.0f} entries/s |"
        f" {max(peaks):.0f} MiB resident | |"
    )
    start = [
        min(start_seconds(arguments) for _ in range(9))
        for arguments in (["-c", "pass"], ["-m", "kifa", "--help"], ["-m", "kifa", "--version"])
    ]
    click.echo(
        f"| `kifa --help`, `kifa --version` | {start[1] * 1e3:.0f} ms, {start[2] * 1e3:.0f} ms |"
        f" {start[1] / start[0]:.1f}, {start[2] / start[0]:.1f} | `python -c pass` |"
    )


def start_seconds(arguments: list[str]) -> float:
    """Return how long the interpreter takes with ``arguments``."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1))
@click.option("--lines", default=1_000_000, show_default=True, help="Transactions for the daemon.")
@click.option(
    "--dir",
    "parent",
    type=click.Path(path_type=Path),
    help="Where; default: a temporary directory.",
)
def main(rounds: int, lines: int, parent: Path | None) -> None:
    """Measure the store and print a table in Markdown."""
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        click.echo("| what | median | ratio (spread) | to |\n|---|---:|---|---|")
        append_rounds(Path(directory), rounds)
        batch_rounds(Path(directory), rounds)
        ingest_rounds(Path(directory), min(rounds, 3), lines)
        reopen_rounds(Path(directory), min(rounds, 3))
        read_rounds(Path(directory), min(rounds, 3))


if __name__ == "__main__":
    main()
