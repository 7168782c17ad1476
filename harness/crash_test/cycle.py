"""One cycle: feed, cut, examine, judge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from harness import oracle
from harness.crash_test.cut import Cutter
from harness.crash_test.examine import Examiner
from harness.crash_test.faults import FailingRequest, Fault, FullDisk, JumpingClock, SlowDisk
from harness.crash_test.feed import Feed, Hooks
from harness.crash_test.locate import locate
from harness.crash_test.look import Look
from harness.crash_test.plan import CyclePlan
from harness.crash_test.results import Counts, Cut, CycleResult, Durations, encode
from harness.crash_test.rot import BitRot, Tampering
from harness.crash_test.settings import Settings
from harness.crash_test.stand import Stand
from harness.crash_test.timeline import Timeline
from harness.oracle import Entry, FlushMode, Judgement, Observation, Verdict

MAX_FINDINGS = 500  # each is searched for on the whole disk


class Cycle:
    """Runs one cycle on a stand whose target is ready for its plan."""

    def __init__(self, stand: Stand, plan: CyclePlan, following: CyclePlan, evidence: Path) -> None:
        """Nothing happens yet.

        Args:
            following: the plan of the next cycle, for which the target is started after the cut.
            evidence: a directory for this cycle; removed again if it passed.
        """
        self._stand = stand
        self._plan = plan
        self._following = following
        self._evidence = evidence
        evidence.mkdir(parents=True)
        self._timeline = Timeline(evidence / "journal.txt", plan.number)
        self._cutter = Cutter(stand, plan, following, self._timeline)
        self._fault = make_fault(stand, plan, self._timeline)

    def run(self, start_s: float, *, closes: bool) -> CycleResult:
        """Run it.

        Args:
            start_s: how long the target took to be ready for it.
            closes: the store is not used after it: the target is to end in order.
        """
        stand, plan = self._stand, self._plan
        self._timeline.note("ready", f"after {start_s:.3f} s")
        stand.power.begin_cycle(plan.profile, plan.seed)
        if plan.rotates_file and stand.store.file is not None:
            stand.store.file.rotate()
        assert stand.child is not None
        feed = Feed(plan, stand.settings, stand.child, stand.senders, self._hooks())
        feed.run()
        feed_s = self._timeline.elapsed_s
        cut = self._cutter.cut(feed, self._fault)
        store = stand.store.path
        at_rest = stand.power.at_rest(store) if cut.power_went else store
        rotten = self._fault.at_rest(at_rest)
        examiner = Examiner(stand, self._following, self._timeline)
        examination = examiner.examine(
            at_rest,
            acks_in_cycle=feed.confirmed,
            at_stake=cut.at_stake,
            clock_off_ms=self._fault.clock_off_ms,
        )
        verify_began_s = self._timeline.elapsed_s
        more = [
            *_stall(feed, stand.settings),
            *cut.findings,
            *rotten,
            *examination.findings,
            *stand.store.ledger.contradictions,
        ]
        if closes:
            more += examiner.close(examination.observation)
        judgement = judge(examination.observation, stand.settings.flush_mode, more)
        self._timeline.note("verified", judgement.verdict)
        counts = _counts(feed, examination.observation, judgement)
        if judgement.verdict is Verdict.PASS:
            recovered = examination.observation.recovered_again or ()
            file = [stand.store.file] if stand.store.file is not None else []
            stand.store.ledger.settle(recovered, [*stand.senders, *file])
        total_s = self._timeline.elapsed_s
        durations = Durations(
            start_s, feed_s, examination.recovery_s, total_s - verify_began_s, total_s
        )
        again = examination.observation.recovered_again
        return self._result(cut.cut, counts, judgement, durations, again)

    def _hooks(self) -> Hooks:
        return Hooks(
            accepted=self._stand.store.ledger.accept,
            confirmed=self._on_confirmed,
            first_confirmed=self._on_first_confirmed,
            looked=self._on_looked,
            open_look=self._open_look,
            tick=self._fault.tick,
        )

    def _on_confirmed(self, lines: list[tuple[int, bytes]]) -> None:
        self._stand.store.ledger.confirm(lines)
        self._timeline.confirmed(lines)

    def _open_look(self) -> Look | None:
        store = self._stand.store
        return self._stand.look(store.path, store.ledger.highest_lsn + 1)

    def _on_looked(self, entries: list[Entry]) -> None:
        self._timeline.note("look", f"{len(entries)} more entries")
        if not self._fault.spoils_looks:
            self._stand.store.ledger.show(entries)

    def _on_first_confirmed(self) -> None:
        self._cutter.arm()
        self._fault.begin()

    def _result(
        self,
        cut: Cut,
        counts: Counts,
        judgement: Judgement,
        durations: Durations,
        recovered_again: Sequence[Entry] | None,
    ) -> CycleResult:
        stand, plan = self._stand, self._plan
        recovered = {entry.lsn: entry.data for entry in recovered_again or ()}
        findings = locate(
            judgement.findings[:MAX_FINDINGS], stand.store.ledger, recovered, stand.snapshot
        )
        result = CycleResult(
            number=plan.number,
            seed=plan.seed,
            mode=stand.settings.flush_mode,
            source=plan.source,
            target=stand.target.name,
            profile=plan.profile if stand.power.has_faults else "",
            power=stand.power.name,
            faults=(self._fault.description,) if self._fault.description else (),
            cut=cut,
            counts=counts,
            verdict=judgement.verdict,
            findings=findings,
            timeline=self._timeline.events(
                with_confirmations=judgement.verdict is not Verdict.PASS
            ),
            durations=durations,
            evidence=None,
            repeat=stand.settings.command_line(plan.number),
        )
        self._timeline.close()
        if result.passed and not stand.settings.keep:
            shutil.rmtree(self._evidence)
            return result
        return self._keep(result)

    def _keep(self, result: CycleResult) -> CycleResult:
        """Keep what explains the result."""
        result = replace(result, evidence=self._evidence)
        if self._stand.snapshot.exists():
            shutil.copytree(self._stand.snapshot, self._evidence / "disk")
        shutil.copy(self._stand.log_path, self._evidence)
        (self._evidence / "cycle.json").write_text(
            json.dumps({"result": encode(result), "plan": asdict(self._plan)}, indent=1)
        )
        return result


def make_fault(stand: Stand, plan: CyclePlan, timeline: Timeline) -> Fault:
    """Return what goes wrong in a cycle."""
    if stand.target.is_tampered:
        return Tampering(stand, plan, timeline)
    kinds: dict[str, type[Fault]] = {
        "none": Fault,
        "eio": FailingRequest,
        "enospc": FullDisk,
        "bitrot": BitRot,
        "slow": SlowDisk,
        "clock": JumpingClock,
    }
    return kinds[plan.faults](stand, plan, timeline)


def _stall(feed: Feed, settings: Settings) -> list[oracle.Finding]:
    if not feed.is_stalled or feed.confirmed == 0:
        return []  # a target that never answers is not measured
    reason = f"the target answered nothing for {settings.patience_seconds:g} s"
    return [oracle.Finding(Verdict.UNAVAILABLE, None, reason)]


def judge(
    observation: Observation, flush_mode: FlushMode, more: Sequence[oracle.Finding]
) -> Judgement:
    """The oracle's judgement, with what was found wrong beside what was recovered."""
    return oracle.judgement((*more, *oracle.judge(observation, flush_mode).findings))


def _counts(feed: Feed, observation: Observation, judgement: Judgement) -> Counts:
    lost = {f.lsn for f in judgement.findings if f.verdict in (Verdict.LOST, Verdict.CORRUPT)}
    return Counts(
        sent=feed.sent,
        confirmed=feed.confirmed,
        confirmed_in_all=len(observation.acked),
        recovered=len(observation.recovered or ()),
        lost=len(lost & observation.acked.keys()),
        at_stake=observation.at_stake,
    )
