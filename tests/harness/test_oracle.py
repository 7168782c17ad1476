"""The oracle: honest recoveries pass, and each kind of damage gets its own verdict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.oracle import Entry, FlushMode, Observation, Verdict, judge

LINES = [b"line %d" % number for number in range(1, 101)]


def entries(count: int) -> list[Entry]:
    return [Entry(lsn, LINES[lsn - 1]) for lsn in range(1, count + 1)]


def observed(recovered: list[Entry] | None, acked: int = 0, **changes: Any) -> Observation:
    fields: dict[str, Any] = {
        "sent": {"stdin": LINES},
        "acked": {entry.lsn: entry.data for entry in entries(acked)},
        "recovered": recovered,
        "recovered_again": recovered,
        "second_reader": recovered,
        "next_lsn": 101,
        "acks_in_cycle": 1,
        "at_stake": 1,
    }
    return Observation(**fields | changes)


def verdict(observation: Observation, mode: FlushMode = FlushMode.CAUTIOUS) -> Verdict:
    return judge(observation, mode).verdict


@settings(deadline=None)
@given(st.integers(0, 100), st.data(), st.sampled_from(FlushMode))
def test_any_prefix_that_holds_what_was_confirmed_passes(
    kept: int, data: st.DataObject, mode: FlushMode
) -> None:
    acked = data.draw(st.integers(0, kept))
    assert judge(observed(entries(kept), acked), mode).findings == ()


@settings(deadline=None)
@given(st.integers(1, 100), st.data())
def test_a_prefix_that_misses_a_confirmed_entry_is_lost(acked: int, data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, acked - 1))
    judgement = judge(observed(entries(kept), acked), FlushMode.NORMAL)
    assert judgement.verdict is Verdict.LOST
    assert [finding.lsn for finding in judgement.findings] == [*range(kept + 1, acked + 1)]


@settings(deadline=None)
@given(st.integers(2, 100), st.data())
def test_a_hole_is_lost_even_if_nobody_was_told(kept: int, data: st.DataObject) -> None:
    recovered = entries(kept)
    del recovered[data.draw(st.integers(0, kept - 2))]
    assert verdict(observed(recovered)) is Verdict.LOST


@settings(deadline=None)
@given(st.integers(2, 100), st.data())
def test_a_dropped_line_is_lost_though_lsns_are_dense(kept: int, data: st.DataObject) -> None:
    dropped = data.draw(st.integers(0, kept - 2))
    lines = LINES[:dropped] + LINES[dropped + 1 : kept]
    recovered = [Entry(lsn, line) for lsn, line in enumerate(lines, 1)]
    assert verdict(observed(recovered)) is Verdict.LOST


@settings(deadline=None)
@given(st.integers(1, 100), st.data(), st.binary(max_size=20))
def test_other_bytes_are_corrupt_if_confirmed_and_phantoms_if_not(
    kept: int, data: st.DataObject, altered: bytes
) -> None:
    lsn = data.draw(st.integers(1, kept))
    recovered = entries(kept)
    recovered[lsn - 1] = Entry(lsn, b"altered " + altered)
    assert verdict(observed(recovered, acked=kept)) in (Verdict.CORRUPT, Verdict.LOST)
    found = {finding.verdict for finding in judge(observed(recovered), FlushMode.NORMAL).findings}
    assert Verdict.PHANTOM in found
    found = {f.verdict for f in judge(observed(recovered, acked=kept), FlushMode.NORMAL).findings}
    assert Verdict.CORRUPT in found


@settings(deadline=None)
@given(st.integers(1, 99))
def test_a_line_that_stands_twice_is_a_phantom(kept: int) -> None:
    assert verdict(observed([*entries(kept), Entry(kept + 1, LINES[0])])) is Verdict.PHANTOM


@settings(deadline=None)
@given(st.integers(2, 100), st.data())
def test_exchanged_lines_are_reordered(kept: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, kept - 2))
    lines = LINES[:kept]
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    recovered = [Entry(lsn, line) for lsn, line in enumerate(lines, 1)]
    assert verdict(observed(recovered)) is Verdict.REORDERED


def test_lsns_that_go_back_are_reordered_and_that_stand_twice_are_corrupt() -> None:
    one, two = entries(2)
    swapped = judge(observed([one, Entry(3, LINES[1]), Entry(2, LINES[2])]), FlushMode.CAUTIOUS)
    assert Verdict.REORDERED in {finding.verdict for finding in swapped.findings}
    assert verdict(observed([one, two, Entry(2, LINES[2])])) is Verdict.CORRUPT


def test_sources_may_interleave() -> None:
    sent = {"a": [b"a1", b"a2"], "b": [b"b1", b"b2"]}
    recovered = [Entry(1, b"b1"), Entry(2, b"a1"), Entry(3, b"a2")]
    assert verdict(observed(recovered, sent=sent)) is Verdict.PASS


def test_what_was_seen_once_stays() -> None:
    seen = {entry.lsn: entry for entry in entries(5)}
    assert verdict(observed(entries(5), seen=seen)) is Verdict.PASS
    assert verdict(observed(entries(4), seen=seen)) is Verdict.LOST


@pytest.mark.parametrize(
    ("mode", "missing", "expected"),
    [
        (FlushMode.NORMAL, 49, Verdict.PASS),
        (FlushMode.NORMAL, 50, Verdict.LOST),
        (FlushMode.CAUTIOUS, 1, Verdict.LOST),
        (FlushMode.EMERGENCY, 1, Verdict.LOST),
    ],
)
def test_accepted_entries_may_be_lost_only_in_normal_mode_and_49_at_most(
    mode: FlushMode, missing: int, expected: Verdict
) -> None:
    accepted = {entry.lsn: entry.data for entry in entries(100)}
    assert verdict(observed(entries(100 - missing), accepted=accepted), mode) is expected


def test_an_accepted_entry_that_has_rotted_may_be_missing() -> None:
    accepted = {entry.lsn: entry.data for entry in entries(100)}
    rotten = {100: LINES[99]}
    assert verdict(observed(entries(99), accepted=accepted, rotten=rotten)) is Verdict.PASS


def test_an_accepted_entry_keeps_its_bytes() -> None:
    assert verdict(observed(entries(1), accepted={1: LINES[1]})) is Verdict.CORRUPT


GOOD = observed(entries(3), acked=2)


@pytest.mark.parametrize(
    ("observation", "expected"),
    [
        (replace(GOOD, recovered=None), Verdict.UNAVAILABLE),
        (replace(GOOD, recovered_again=None), Verdict.UNAVAILABLE),
        (replace(GOOD, next_lsn=None), Verdict.UNAVAILABLE),
        (replace(GOOD, recovered_again=entries(2)), Verdict.CORRUPT),
        (replace(GOOD, next_lsn=3), Verdict.CORRUPT),
        (replace(GOOD, second_reader=entries(2)), Verdict.HARNESS_BROKEN),
        (replace(GOOD, second_reader=None), Verdict.HARNESS_BROKEN),
        (replace(GOOD, acked={1: b"not sent"}), Verdict.HARNESS_BROKEN),
        (replace(GOOD, sent={"a": LINES, "b": LINES[:1]}), Verdict.HARNESS_BROKEN),
        (replace(GOOD, acks_in_cycle=0), Verdict.NOT_MEASURED),
        (replace(GOOD, at_stake=0), Verdict.NOT_MEASURED),
        (GOOD, Verdict.PASS),
    ],
)
def test_each_kind_of_verdict(observation: Observation, expected: Verdict) -> None:
    assert verdict(observation) is expected


def test_a_reader_that_shows_what_the_cut_then_loses_is_found() -> None:
    shown = {entry.lsn: entry for entry in entries(5)}
    assert verdict(observed(entries(5), shown=shown)) is Verdict.PASS
    assert verdict(observed(entries(4), shown=shown)) is Verdict.LOST


@pytest.mark.parametrize("promise", ["seen", "shown"])
def test_times_stay(promise: str) -> None:
    promised = {1: Entry(1, LINES[0], 1_000)}
    kept = [Entry(1, LINES[0], 1_000)]
    altered = [Entry(1, LINES[0], 1_001)]
    assert verdict(observed(kept, **{promise: promised})) is Verdict.PASS
    assert verdict(observed(altered, **{promise: promised})) is Verdict.CORRUPT


def test_the_time_of_a_new_entry_is_that_of_the_clock() -> None:
    recovered = [Entry(1, LINES[0], 500), Entry(2, LINES[1], 1_500)]
    seen = {1: recovered[0]}
    assert verdict(observed(recovered, seen=seen, clock=(1_000, 2_000))) is Verdict.PASS
    assert verdict(observed(recovered, seen=seen, clock=(1_000, 1_400))) is Verdict.CORRUPT
    assert verdict(observed(recovered, clock=(1_000, 2_000))) is Verdict.CORRUPT


def test_every_line_of_a_followed_file_is_there_once() -> None:
    sent = {"file": LINES[:3]}
    observation = observed(entries(2), sent=sent, complete=("file",))
    assert verdict(replace(observation, recovered_again=entries(3))) is Verdict.PASS
    assert verdict(observation) is Verdict.LOST
    twice = [*entries(3), Entry(4, LINES[2])]
    assert verdict(replace(observation, recovered_again=twice)) is Verdict.PHANTOM


def test_what_rotted_may_be_missing_and_nothing_else() -> None:
    recovered = [entry for entry in entries(5) if entry.lsn not in (2, 3)]
    observation = observed(recovered, acked=5, rotten={2: LINES[1], 3: LINES[2]})
    assert verdict(observation) is Verdict.PASS
    assert verdict(replace(observation, rotten={2: LINES[1]})) is Verdict.LOST
    assert (
        verdict(replace(observation, recovered=entries(5), second_reader=entries(5)))
        is Verdict.PASS
    )
    assert (
        verdict(observed([entries(2)[0], Entry(2, b"x")], acked=2, rotten={2: LINES[1]}))
        is Verdict.CORRUPT
    )


def test_what_the_store_takes_after_the_recovery_is_judged_too() -> None:
    more = [*entries(3), Entry(4, b"never sent")]
    assert verdict(replace(GOOD, recovered_again=more)) is Verdict.PHANTOM
    assert verdict(replace(GOOD, recovered_again=entries(4))) is Verdict.PASS
