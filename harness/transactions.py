"""Transactions like those of real POS terminals and mobile-money agents, as JSON lines.

The same seed gives the same stream but for the timestamps, whatever the rate.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

TYPES = {"payment": 60, "withdrawal": 20, "deposit": 15, "transfer": 5}
METHODS = {"mobile_money": 70, "cash": 20, "card": 10}
STATUSES = {"completed": 95, "failed": 3, "pending": 2}
CURRENCY = "KES"

# Lines are made in blocks of this many, so that the random choices of a block are drawn together.
BLOCK_LINES = 500
PHONE_NUMBERS = 10_000


@dataclass(frozen=True, slots=True)
class Population:
    """Who makes the transactions."""

    terminals: int = 50
    agents: int = 20


def transactions(
    seed: int, population: Population, clock: Callable[[], float] = time.time
) -> Iterator[list[bytes]]:
    """Yield blocks of `BLOCK_LINES` lines (with their line ends) without end.

    Args:
        clock: gives the time of a block in seconds since 1970.
    """
    random_numbers = random.Random(seed)
    terminals = [f"POS-{number:04d}" for number in range(1, population.terminals + 1)]
    agents = [f"AGT-{number:04d}" for number in range(1, population.agents + 1)]
    phones = [f"+2547{random_numbers.randrange(10**8):08d}" for _ in range(PHONE_NUMBERS)]
    choices = random_numbers.choices
    first = 1
    while True:
        columns = zip(
            range(first, first + BLOCK_LINES),
            choices(terminals, k=BLOCK_LINES),
            choices(agents, k=BLOCK_LINES),
            choices(list(TYPES), list(TYPES.values()), k=BLOCK_LINES),
            _amounts(random_numbers),
            choices(list(METHODS), list(METHODS.values()), k=BLOCK_LINES),
            choices(phones, k=BLOCK_LINES),
            choices(phones, k=BLOCK_LINES),
            choices(list(STATUSES), list(STATUSES.values()), k=BLOCK_LINES),
            [random_numbers.getrandbits(32) for _ in range(BLOCK_LINES)],
            strict=True,
        )
        timestamp = _timestamp(clock())
        yield [
            (
                f'{{"txn_id":"TXN-{seed}-{number:08d}","terminal_id":"{terminal}",'
                f'"agent_id":"{agent}","timestamp":"{timestamp}","type":"{kind}",'
                f'"amount":{amount},"currency":"{CURRENCY}","method":"{method}",'
                f'"sender":"{sender}","receiver":"{receiver}","status":"{status}",'
                f'"receipt":"RCP-{receipt:08X}"}}\n'
            ).encode()
            for (
                number,
                terminal,
                agent,
                kind,
                amount,
                method,
                sender,
                receiver,
                status,
                receipt,
            ) in columns
        ]
        first += BLOCK_LINES


def _amounts(random_numbers: random.Random) -> list[int]:
    """Return amounts with many small ones and a long tail, in steps of 10."""
    uniform = random_numbers.random
    return [10 * int(5 + 1_000 * uniform() ** 4 * (1 + 9 * uniform())) for _ in range(BLOCK_LINES)]


def _timestamp(now: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    return f"{whole}.{int(now % 1 * 1000):03d}Z"
