"""What a run measured: a value a round for each subject, latencies, and where it was measured. Kept as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.figures import Histogram, spread_of
from bench.peers import PEERS

SCHEMA = 1
KIFA = "kifa"
FLOOR = "floor"
# Above this spread of its rounds a figure says more about the machine than about what was measured.
WORTHLESS_SPREAD = 0.30


class RunFileError(Exception):
    """A file that should hold a run does not."""


@dataclass(slots=True)
class Measurement:
    """One thing, measured for Kifa, its floor and its peers in the same rounds.

    ``name`` is a path, `append/cautious/200/1`. ``series`` maps each subject to one value a round.
    """

    name: str
    what: str
    unit: str
    higher_is_better: bool = True
    floor: str = ""  # what the floor is, in words
    series: dict[str, list[float]] = field(default_factory=dict)
    latencies: dict[str, Histogram] = field(default_factory=dict)
    not_equal: dict[str, str] = field(default_factory=dict)  # subject: why it is less durable
    parameters: dict[str, Any] = field(default_factory=dict)

    def add(self, subject: str, value: float) -> None:
        """Add the value of one more round."""
        self.series.setdefault(subject, []).append(value)

    def add_latencies(self, subject: str, seconds: list[float]) -> None:
        """Add latencies, given in seconds."""
        self.latencies.setdefault(subject, Histogram()).add(seconds)

    def median_of(self, subject: str = KIFA) -> float | None:
        """Return the median of a subject's rounds, None where it was not measured."""
        values = self.series.get(subject)
        return median(values) if values else None

    def ratios(self, subject: str, other: str) -> list[float]:
        """Return ``subject`` divided by ``other``, round by round; empty where one is missing."""
        pairs = zip(self.series.get(subject, ()), self.series.get(other, ()), strict=False)
        return [mine / theirs for mine, theirs in pairs if theirs]

    def ratio(self, subject: str = KIFA, other: str = FLOOR) -> float | None:
        """Return the median ratio, None where one of the two is missing."""
        ratios = self.ratios(subject, other)
        return median(ratios) if ratios else None

    @property
    def peers(self) -> list[str]:
        """The peers that were measured. Other subjects are Kifa itself, in another way of use."""
        return [name for name in self.series if name in PEERS]

    @property
    def best_peer(self) -> str | None:
        """The best peer of those as durable as Kifa."""
        medians = {
            name: median(self.series[name]) for name in self.peers if name not in self.not_equal
        }
        if not medians:
            return None
        return (max if self.higher_is_better else min)(medians, key=medians.__getitem__)

    @property
    def spread(self) -> float:
        """The spread of what is judged: of the ratio to the floor, where there is one."""
        judged = self.ratios(KIFA, FLOOR) or self.series.get(KIFA, [])
        return spread_of(judged) if judged else 0.0

    @property
    def is_worthless(self) -> bool:
        """Whether the rounds disagree so much that the figure says nothing."""
        return self.spread > WORTHLESS_SPREAD

    def to_json(self) -> dict[str, Any]:
        """Return plain data; what can be computed from it is there too, for other readers."""
        data = asdict(self)
        data["latencies"] = {
            name: {
                "p50_us": histogram.percentile_us(0.5),
                "p99_us": histogram.percentile_us(0.99),
                "p99.9_us": histogram.percentile_us(0.999),
                "histogram": histogram.to_json(),
            }
            for name, histogram in self.latencies.items()
        }
        data["median"] = {name: median(values) for name, values in self.series.items()}
        data["ratio_to_floor"] = self.ratio()
        data["best_peer"] = self.best_peer
        data["ratio_to_best_peer"] = self.ratio(KIFA, self.best_peer) if self.best_peer else None
        data["spread"] = self.spread
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Measurement:
        """Return what `to_json` described."""
        names = ("name", "what", "unit", "higher_is_better", "floor", "series", "not_equal")
        latencies = {
            name: Histogram.from_json(kept["histogram"]) for name, kept in data["latencies"].items()
        }
        chosen = {name: data[name] for name in (*names, "parameters")}
        return cls(**chosen, latencies=latencies)


@dataclass(slots=True)
class Run:
    """All that one run measured."""

    header: dict[str, Any]
    measurements: list[Measurement] = field(default_factory=list)

    def find(self, name: str) -> Measurement | None:
        """Return the measurement of that name, None where it was not made."""
        return next((one for one in self.measurements if one.name == name), None)

    def measured_again(self, later: Run) -> Run:
        """Return this run with what ``later`` measured in place of its own, and both commands in the header."""
        names = {one.name for one in later.measurements}
        command = f"{self.header['command']}\n{later.header['command']}  # {later.header['date']}"
        return Run(
            {**self.header, "command": command},
            [one for one in self.measurements if one.name not in names] + later.measurements,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data, the verdict on each limit included."""
        from bench.limits import judge

        return {
            "schema": SCHEMA,
            "kind": "run",
            "header": self.header,
            "measurements": [one.to_json() for one in self.measurements],
            "limits": [asdict(verdict) for verdict in judge(self)],
        }

    def save(self, path: Path) -> None:
        """Write the run to ``path``.

        Raises:
            OSError: it cannot be written.
        """
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n")


def load_run(path: Path) -> Run:
    """Return the run that `Run.save` wrote.

    Raises:
        RunFileError: the file cannot be read, or is something else.
    """
    data = load_json(path)
    if data.get("kind") != "run" or data.get("schema") != SCHEMA:
        raise RunFileError(f"{path} holds no run of this version of kifa-bench")
    try:
        return Run(data["header"], [Measurement.from_json(one) for one in data["measurements"]])
    except (KeyError, TypeError, ValueError) as error:
        raise RunFileError(f"{path} holds a run with something missing: {error}") from None


def load_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Raises:
        RunFileError: the file cannot be read, or holds no object.
    """
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise RunFileError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RunFileError(f"{path} is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise RunFileError(f"{path} holds no run")
    return data
