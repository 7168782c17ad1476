"""``gen-transactions``: writes transactions to standard output, at a rate or as fast as it can."""

from __future__ import annotations

import os
import secrets
import signal
import time

import click

from harness.transactions import Population, transactions

# A rate is kept in steps this long, so that lines come evenly.
STEP_SECONDS = 0.02


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-n", "--count", default=0, type=click.IntRange(0), help="Lines to write; 0 is endless."
)
@click.option(
    "-r",
    "--rate",
    default=0.0,
    type=click.FloatRange(0),
    help="Lines per second; 0 is unthrottled.",
)
@click.option("-t", "--terminals", default=50, show_default=True, type=click.IntRange(1))
@click.option("-a", "--agents", default=20, show_default=True, type=click.IntRange(1))
@click.option("-s", "--seed", type=int, help="Same seed, same lines (timestamps excepted).")
def main(count: int, rate: float, terminals: int, agents: int, seed: int | None) -> None:
    """Write transactions of POS terminals and mobile-money agents as JSON lines.

    Ends quietly when the reader goes away. Exit codes: 0 done, 130 interrupted.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    if seed is None:
        seed = secrets.randbelow(1_000_000)
    write_lines(count, rate, seed, Population(terminals, agents))


def write_lines(count: int, rate: float, seed: int, population: Population) -> None:
    """Write ``count`` lines (0: without end) at ``rate`` per second (0: unthrottled)."""
    started = time.monotonic()
    written = 0
    for block in transactions(seed, population):
        lines = block[: count - written] if count else block
        step = max(1, int(rate * STEP_SECONDS)) if rate else len(lines)
        for position in range(0, len(lines), step):
            if rate:
                time.sleep(max(started + written / rate - time.monotonic(), 0))
            chunk = lines[position : position + step]
            _write(b"".join(chunk))
            written += len(chunk)
        if count and written >= count:
            return


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    main()
