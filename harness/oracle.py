"""Judges a crash: a pure function of what was sent, confirmed and recovered.

An `Observation` covers the whole life of a store up to one cut and the recovery after it. Everything sent is unique,
so that each recovered entry names the line it came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

# What normal mode may lose of the entries that append() has accepted and nobody has confirmed.
NORMAL_AT_RISK = 49


class FlushMode(StrEnum):
    """The sync policy the store ran with."""

    NORMAL = "normal"
    CAUTIOUS = "cautious"
    EMERGENCY = "emergency"


class Verdict(StrEnum):
    """The outcome of a cycle; of several findings the one that stands first here is the verdict."""

    HARNESS_BROKEN = "HARNESS-BROKEN"
    UNAVAILABLE = "UNAVAILABLE"
    LOST = "LOST"
    CORRUPT = "CORRUPT"
    PHANTOM = "PHANTOM"
    REORDERED = "REORDERED"
    NOT_MEASURED = "NOT-MEASURED"
    PASS = "PASS"


_SEVERITY = {verdict: position for position, verdict in enumerate(Verdict)}


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as a reader gave it."""

    lsn: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Observation:
    """All that is known about a store after a recovery.

    Args:
        sent: for each source the lines given to the store, in order, without those it refused.
        acked: LSN to the bytes it was confirmed for, over all cycles.
        seen: LSN to bytes of what an earlier cycle has recovered: it must stay, confirmed or not.
        accepted: LSN to bytes of what append() returned for; the daemon shows none.
        recovered: the entries after recovery, in the reader's order; None if it could not be read.
        recovered_again: the same after a second recovery of the same bytes.
        second_reader: the same entries from an independent decoder.
        next_lsn: the first LSN confirmed after the recovery; None if the store took no entry.
        acks_in_cycle: how many acknowledgements came between the start and the cut.
        at_stake: lines without an answer, plus operations without a sync, when the cut fell.
    """

    sent: Mapping[str, Sequence[bytes]]
    acked: Mapping[int, bytes]
    recovered: Sequence[Entry] | None
    recovered_again: Sequence[Entry] | None
    second_reader: Sequence[Entry] | None
    next_lsn: int | None
    acks_in_cycle: int
    at_stake: int
    seen: Mapping[int, bytes] = field(default_factory=dict)
    accepted: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise, and where: `lsn` is None when it concerns no single entry."""

    verdict: Verdict
    lsn: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict and every finding behind it, in the order of the checks."""

    verdict: Verdict
    findings: tuple[Finding, ...]


def judge(observation: Observation, flush_mode: FlushMode) -> Judgement:
    """Judge one recovery.

    Returns:
        `PASS` only if every promise held and something was at stake.
    """
    findings = tuple(_findings(observation, flush_mode))
    verdict = min((f.verdict for f in findings), key=_SEVERITY.__getitem__, default=Verdict.PASS)
    return Judgement(verdict, findings)


def _findings(observation: Observation, flush_mode: FlushMode) -> Iterator[Finding]:
    yield from _contradictions(observation)
    recovered = observation.recovered
    if recovered is None:
        yield Finding(Verdict.UNAVAILABLE, None, "the store cannot be read")
        return
    yield from _numbering(recovered)
    yield from _promised(observation, recovered)
    yield from _accepted(observation, recovered, flush_mode)
    yield from _origins(observation, recovered)
    yield from _readers(observation, recovered)
    yield from _next_write(observation, recovered)
    if observation.acks_in_cycle == 0:
        yield Finding(Verdict.NOT_MEASURED, None, "nothing was confirmed before the cut")
    elif observation.at_stake == 0:
        yield Finding(Verdict.NOT_MEASURED, None, "nothing was pending at the cut")


def _contradictions(observation: Observation) -> Iterator[Finding]:
    """Find what no store can cause: a journal or a generator that cannot be trusted."""
    lines = [line for source in observation.sent.values() for line in source]
    known = set(lines)
    if len(known) != len(lines):
        yield Finding(Verdict.HARNESS_BROKEN, None, "a line was sent twice")
    for lsn, data in observation.acked.items():
        if data not in known:
            yield Finding(Verdict.HARNESS_BROKEN, lsn, "confirmed for a line that was not sent")


def _numbering(recovered: Sequence[Entry]) -> Iterator[Finding]:
    """LSNs are 1, 2, 3, ..."""
    if recovered and recovered[0].lsn != 1:
        yield Finding(Verdict.LOST, 1, f"the first LSN is {recovered[0].lsn}")
    for before, after in pairwise(recovered):
        if after.lsn == before.lsn:
            yield Finding(Verdict.CORRUPT, after.lsn, "the LSN stands twice")
        elif after.lsn < before.lsn:
            yield Finding(Verdict.REORDERED, after.lsn, f"stands behind LSN {before.lsn}")
        elif after.lsn > before.lsn + 1:
            yield Finding(Verdict.LOST, before.lsn + 1, f"missing up to LSN {after.lsn - 1}")


def _promised(observation: Observation, recovered: Sequence[Entry]) -> Iterator[Finding]:
    """What was confirmed, or shown by an earlier recovery, is there with the same bytes."""
    found = {entry.lsn: entry.data for entry in recovered}
    for promises, how in ((observation.acked, "confirmed"), (observation.seen, "recovered before")):
        for lsn, data in promises.items():
            if lsn not in found:
                yield Finding(Verdict.LOST, lsn, f"{how} and missing")
            elif found[lsn] != data:
                yield Finding(Verdict.CORRUPT, lsn, f"{how} with other bytes")


def _accepted(
    observation: Observation, recovered: Sequence[Entry], flush_mode: FlushMode
) -> Iterator[Finding]:
    found = {entry.lsn for entry in recovered}
    missing = sorted(observation.accepted.keys() - found)
    allowed = NORMAL_AT_RISK if flush_mode is FlushMode.NORMAL else 0
    if len(missing) > allowed:
        yield Finding(
            Verdict.LOST, missing[0], f"{len(missing)} accepted entries are missing, not {allowed}"
        )
    for entry in recovered:
        if observation.accepted.get(entry.lsn, entry.data) != entry.data:
            yield Finding(Verdict.CORRUPT, entry.lsn, "accepted with other bytes")


def _origins(observation: Observation, recovered: Sequence[Entry]) -> Iterator[Finding]:
    """Each entry was sent, once; of each source the exact prefix is there, in order."""
    origins = {
        line: (source, position)
        for source, lines in observation.sent.items()
        for position, line in enumerate(lines)
    }
    expected = dict.fromkeys(observation.sent, 0)
    present = {entry.data for entry in recovered}
    taken: set[bytes] = set()
    for entry in recovered:
        if entry.data not in origins:
            yield Finding(Verdict.PHANTOM, entry.lsn, "was never sent")
            continue
        if entry.data in taken:
            yield Finding(Verdict.PHANTOM, entry.lsn, "was sent once and is there twice")
            continue
        taken.add(entry.data)
        source, position = origins[entry.data]
        if position < expected[source]:
            yield Finding(Verdict.REORDERED, entry.lsn, f"stands behind later lines of {source}")
            continue
        for hole in observation.sent[source][expected[source] : position]:
            # A line that comes later is out of order; that is found there.
            if hole not in present:
                yield Finding(Verdict.LOST, entry.lsn, f"an earlier line of {source} is missing")
                break
        expected[source] = position + 1


def _readers(observation: Observation, recovered: Sequence[Entry]) -> Iterator[Finding]:
    """A second recovery and a second reader give the same."""
    again = observation.recovered_again
    if again is None:
        yield Finding(Verdict.UNAVAILABLE, None, "the store cannot be read a second time")
    elif list(again) != list(recovered):
        yield Finding(Verdict.CORRUPT, None, "a second recovery gives other entries")
    second = observation.second_reader
    if second is None or list(second) != list(recovered):
        yield Finding(Verdict.HARNESS_BROKEN, None, "the two readers do not agree")


def _next_write(observation: Observation, recovered: Sequence[Entry]) -> Iterator[Finding]:
    used = [*observation.acked, *observation.seen, *(entry.lsn for entry in recovered)]
    if observation.next_lsn is None:
        yield Finding(Verdict.UNAVAILABLE, None, "the store takes no entries after recovery")
    elif used and observation.next_lsn <= max(used):
        yield Finding(Verdict.CORRUPT, observation.next_lsn, "the LSN was given out before")
