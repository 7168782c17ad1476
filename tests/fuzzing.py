"""How many random lives a test goes through, and which: as the environment says, so that they can go on for hours."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent


def count_of_lives(default: int) -> int:
    """KIFA_LIVES, or ``default``."""
    return int(os.environ.get("KIFA_LIVES", default))


def seeds_of_lives(lives: int, *, first: int) -> Iterator[int]:
    """Yield the seeds of so many lives, from KIFA_LIVES_SEED (``first``) on, until KIFA_LIVES_SECONDS are over.

    With KIFA_LIVES_REPEAT=1 all are the first.
    """
    first = int(os.environ.get("KIFA_LIVES_SEED", first))
    step = 0 if os.environ.get("KIFA_LIVES_REPEAT") == "1" else 1
    end = time.monotonic() + float(os.environ.get("KIFA_LIVES_SECONDS", "inf"))
    for number in range(lives):
        yield first + step * number
        if time.monotonic() > end:
            break


def how_to_repeat(seed: int, file: str) -> str:
    """Return what to say of a life that failed in the test of ``file``."""
    path = Path(file).relative_to(ROOT)
    return f"life {seed}; again: KIFA_LIVES=1 KIFA_LIVES_SEED={seed} python -m pytest -s {path}"
