"""Judges a crash: a pure function of what was sent, confirmed and recovered.

An `Observation` covers the whole life of a store up to one cut and the recovery after it. Everything sent is unique,
so that each recovered entry names the line it came from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

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
    timestamp_ms: int = 0


@dataclass(frozen=True, slots=True)
class Observation:
    """All that is known about a store after a recovery.

    Args:
        sent: for each source the lines given to the store, in order, without those it refused.
        acked: LSN to the bytes it was confirmed for before the cut, over all cycles.
        recovered: the entries after the cut, in the reader's order; None if it could not be read.
        recovered_again: the entries once the store has recovered and taken entries again. It begins with `recovered`.
        second_reader: the same entries as `recovered`, from an independent decoder.
        next_lsn: the first LSN confirmed after the recovery; None if the store took no entry.
        acks_in_cycle: how many acknowledgements came between the start and the cut.
        at_stake: lines without an answer, plus operations without a sync, when the cut fell.
        seen: LSN to what an earlier cycle has recovered: it must stay, confirmed or not.
        shown: LSN to what a reader showed before the cut, but for what it showed after a sync had failed: that is
            "maybe", neither durable nor lost.
        accepted: LSN to bytes of what append() has returned for since the last recovery; the daemon shows none.
        complete: sources of which each line must be there, exactly once, after the recovery: files that are followed.
        rotten: LSN to bytes of what was destroyed on the disk on purpose: it may be missing.
        clock: what the wall clock showed while the entries were written that were not seen before: (earliest, latest),
            Unix ms; None if that is not known.
    """

    sent: Mapping[str, Sequence[bytes]]
    acked: Mapping[int, bytes]
    recovered: Sequence[Entry] | None
    recovered_again: Sequence[Entry] | None
    second_reader: Sequence[Entry] | None
    next_lsn: int | None
    acks_in_cycle: int
    at_stake: int
    seen: Mapping[int, Entry] = field(default_factory=dict)
    shown: Mapping[int, Entry] = field(default_factory=dict)
    accepted: Mapping[int, bytes] = field(default_factory=dict)
    complete: Collection[str] = ()
    rotten: Mapping[int, bytes] = field(default_factory=dict)
    clock: tuple[int, int] | None = None


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
    return judgement(tuple(_findings(observation, flush_mode)))


def judgement(findings: tuple[Finding, ...]) -> Judgement:
    """The worst of the findings is the verdict."""
    verdict = min((f.verdict for f in findings), key=_SEVERITY.__getitem__, default=Verdict.PASS)
    return Judgement(verdict, findings)


def _findings(observation: Observation, flush_mode: FlushMode) -> Iterator[Finding]:
    yield from _contradictions(observation)
    recovered = observation.recovered
    if recovered is None:
        yield Finding(Verdict.UNAVAILABLE, None, "the store cannot be read")
        return
    again = observation.recovered_again
    whole = recovered if again is None else again
    yield from _numbering(observation, whole)
    yield from _promised(observation, recovered)
    yield from _accepted(observation, recovered, flush_mode)
    yield from _origins(observation, whole)
    yield from _completeness(observation, whole)
    yield from _times(observation, whole)
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


def _numbering(observation: Observation, recovered: Sequence[Entry]) -> Iterator[Finding]:
    """LSNs are 1, 2, 3, ..."""
    before = Entry(0, b"")
    for after in recovered:
        if after.lsn == before.lsn:
            yield Finding(Verdict.CORRUPT, after.lsn, "the LSN stands twice")
        elif after.lsn < before.lsn:
            yield Finding(Verdict.REORDERED, after.lsn, f"stands behind LSN {before.lsn}")
        else:
            missing = [
                lsn for lsn in range(before.lsn + 1, after.lsn) if lsn not in observation.rotten
            ]
            if missing:
                yield Finding(Verdict.LOST, missing[0], f"missing up to LSN {missing[-1]}")
        before = after


def _promised(observation: Observation, recovered: Sequence[Entry]) -> Iterator[Finding]:
    """What was confirmed, or shown by a reader or an earlier recovery, is there with the same bytes and time."""
    found = {entry.lsn: entry for entry in recovered}
    for lsn, data in observation.acked.items():
        yield from _kept(observation, found.get(lsn), Entry(lsn, data), "confirmed")
    for promises, how in ((observation.shown, "shown"), (observation.seen, "recovered before")):
        for lsn, entry in promises.items():
            present = found.get(lsn)
            yield from _kept(observation, present, entry, how)
            if present is not None and present.timestamp_ms != entry.timestamp_ms:
                yield Finding(Verdict.CORRUPT, lsn, f"{how} with another time")


def _kept(
    observation: Observation, present: Entry | None, promised: Entry, how: str
) -> Iterator[Finding]:
    if present is None:
        if promised.lsn not in observation.rotten:
            yield Finding(Verdict.LOST, promised.lsn, f"{how} and missing")
    elif present.data != promised.data:
        yield Finding(Verdict.CORRUPT, promised.lsn, f"{how} with other bytes")


def _accepted(
    observation: Observation, recovered: Sequence[Entry], flush_mode: FlushMode
) -> Iterator[Finding]:
    found = {entry.lsn for entry in recovered}
    missing = sorted(observation.accepted.keys() - found - observation.rotten.keys())
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
    # A line that comes later is out of order, which is found there; what has rotted may be missing.
    present = {entry.data for entry in recovered} | set(observation.rotten.values())
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
            if hole not in present:
                yield Finding(Verdict.LOST, entry.lsn, f"an earlier line of {source} is missing")
                break
        expected[source] = position + 1


def _completeness(observation: Observation, recovered: Sequence[Entry]) -> Iterator[Finding]:
    present = {entry.data for entry in recovered} | set(observation.rotten.values())
    for source in observation.complete:
        missing = [line for line in observation.sent[source] if line not in present]
        if missing:
            yield Finding(
                Verdict.LOST, None, f"{len(missing)} lines of {source} were not read, or skipped"
            )


def _times(observation: Observation, recovered: Sequence[Entry]) -> Iterator[Finding]:
    """The time of a new entry is that of the clock when it was written."""
    if observation.clock is None:
        return
    earliest, latest = observation.clock
    for entry in recovered:
        if entry.lsn not in observation.seen and not earliest <= entry.timestamp_ms <= latest:
            yield Finding(
                Verdict.CORRUPT,
                entry.lsn,
                f"its time, {entry.timestamp_ms}, is not within {earliest} to {latest}",
            )


def _readers(observation: Observation, recovered: Sequence[Entry]) -> Iterator[Finding]:
    """A second recovery and a second reader give the same."""
    again = observation.recovered_again
    if again is None:
        yield Finding(Verdict.UNAVAILABLE, None, "the store cannot be read a second time")
    else:
        # What has rotted in a table may still be in the log, until the log is recycled.
        kept = [entry for entry in recovered if entry.lsn not in observation.rotten]
        kept_again = [entry for entry in again if entry.lsn not in observation.rotten]
        if kept_again[: len(kept)] != kept:
            yield Finding(Verdict.CORRUPT, None, "a second recovery gives other entries")
    second = observation.second_reader
    if second is None or list(second) != list(recovered):
        yield Finding(Verdict.HARNESS_BROKEN, None, "the two readers do not agree")


def _next_write(observation: Observation, recovered: Sequence[Entry]) -> Iterator[Finding]:
    used = [
        *observation.acked,
        *observation.seen,
        *observation.shown,
        *(entry.lsn for entry in recovered),
    ]
    if observation.next_lsn is None:
        yield Finding(Verdict.UNAVAILABLE, None, "the store takes no entries after recovery")
    elif used and observation.next_lsn <= max(used):
        yield Finding(Verdict.CORRUPT, observation.next_lsn, "the LSN was given out before")
