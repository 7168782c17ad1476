"""What every measurement needs: the options, a directory, progress, and rounds in which subjects take turns."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.peers import PEERS, KifaStore, Store
from bench.results import KIFA, Measurement

# Subjects change places this often within a round: the floor drifts within seconds.
TURNS = 4


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for."""

    sizes: tuple[int, ...] = (64, 200, 1024, 4096)
    modes: tuple[str, ...] = ("normal", "cautious", "emergency")
    groups: tuple[int, ...] = (1, 50, 500, 5000)
    clients: tuple[int, ...] = (1, 8, 32, 64)
    peers: tuple[str, ...] = ()
    rounds: int = 5
    quick: bool = False
    long: bool = False

    @property
    def heavy_rounds(self) -> int:
        """Rounds of what takes seconds each."""
        return min(self.rounds, 3)

    def scaled(self, count: int, quick: int) -> int:
        """Return ``count``, or ``quick`` with ``--quick``."""
        return quick if self.quick else count

    @property
    def entry_size(self) -> int:
        """The size around which the other options vary: 200 B where it is among the sizes."""
        return 200 if 200 in self.sizes else self.sizes[0]

    @property
    def mode(self) -> str:
        """The flush mode around which the other options vary."""
        return "cautious" if "cautious" in self.modes else self.modes[0]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a subject did in its turn."""

    entries: int
    seconds: float
    latencies: list[float] = field(default_factory=list)


class Progress:
    """One line on a terminal that says what is measured; a line for each measurement elsewhere."""

    def __init__(self, is_live: bool | None = None) -> None:
        self._is_live = sys.stderr.isatty() if is_live is None else is_live
        self._started = time.monotonic()
        self._what = ""

    def show(self, what: str, detail: str = "") -> None:
        """Tell what is being done."""
        elapsed = time.monotonic() - self._started
        text = f"[{elapsed:4.0f} s] {what}"
        if self._is_live:
            width = shutil.get_terminal_size().columns
            line = f"{text} {detail}"[: width - 1]
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        elif what != self._what:
            print(text, file=sys.stderr, flush=True)
        self._what = what

    def clear(self) -> None:
        """Leave the terminal as it was."""
        if self._is_live:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


class Session:
    """A run in the making."""

    def __init__(self, directory: Path, options: Options, progress: Progress) -> None:
        self.directory = directory
        self.options = options
        self.progress = progress
        self.measurements: list[Measurement] = []

    def measurement(
        self,
        name: str,
        what: str,
        unit: str = "entries/s",
        *,
        higher_is_better: bool = True,
        floor: str = "",
        **parameters: object,
    ) -> Measurement:
        """Begin a measurement and add it to the run."""
        one = Measurement(name, what, unit, higher_is_better, floor, parameters=parameters)
        self.measurements.append(one)
        self.progress.show(what)
        return one

    def rounds(self, count: int, measurement: Measurement) -> Iterator[int]:
        """Yield 1 to ``count``, telling the user."""
        for number in range(1, count + 1):
            self.progress.show(measurement.what, f"· round {number} of {count}")
            yield number

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Give a new empty directory, and remove it."""
        path = self.directory / name.replace("/", "-")
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def take_turns(
        self,
        measurement: Measurement,
        subjects: Mapping[str, Callable[[], Turn]],
        *,
        rounds: int | None = None,
        turns: int = TURNS,
    ) -> None:
        """Measure the rate of all subjects in each round, in turns, in one order and then in the other."""
        turns = self.options.scaled(turns, 2)
        for _ in self.rounds(rounds or self.options.rounds, measurement):
            entries = dict.fromkeys(subjects, 0)
            seconds = dict.fromkeys(subjects, 0.0)
            for number in range(turns):
                order = list(subjects) if number % 2 == 0 else list(reversed(list(subjects)))
                for name in order:
                    turn = subjects[name]()
                    entries[name] += turn.entries
                    seconds[name] += turn.seconds
                    if turn.latencies:
                        measurement.add_latencies(name, turn.latencies)
            for name in subjects:
                measurement.add(name, entries[name] / seconds[name])


@contextlib.contextmanager
def open_stores(
    session: Session, directory: Path, mode: str = "cautious", peers: Sequence[str] | None = None
) -> Iterator[dict[str, Store]]:
    """Open a store of Kifa and of every peer below ``directory``, and close them."""
    stores: dict[str, Store] = {KIFA: KifaStore(directory / KIFA, mode)}
    try:
        for name in session.options.peers if peers is None else peers:
            stores[name] = PEERS[name](directory / name, mode)
        yield stores
    finally:
        for store in stores.values():
            store.close()


def mark_peers(measurement: Measurement) -> None:
    """Note which of the peers measured are less durable than Kifa."""
    for name in measurement.peers:
        if PEERS[name].not_equal:
            measurement.not_equal[name] = PEERS[name].not_equal


def size_on_disk(directory: Path) -> int:
    """Return the bytes allocated to the files below ``directory``."""
    total = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_blocks * 512
    return total
