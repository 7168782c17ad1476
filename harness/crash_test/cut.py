"""The cut itself: the process dies, the power goes, perhaps again while the store recovers."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from fnmatch import fnmatchcase

from harness.crash_test.faults import Fault
from harness.crash_test.feed import Feed
from harness.crash_test.plan import CyclePlan, RecoveryCut, Requests
from harness.crash_test.power import Pending
from harness.crash_test.processes import NotReadyError, TargetProcess
from harness.crash_test.results import Cut, Stage
from harness.crash_test.stand import Stand
from harness.crash_test.timeline import Timeline
from harness.oracle import Finding, Verdict

# A target on a quiet machine beside a busy harness may answer a burst before it is stopped.
MAX_BURSTS = 20


@dataclass(frozen=True, slots=True)
class CutReport:
    """What a cut did.

    Attributes:
        power_went: whether the last thing that happened was a power loss; otherwise un-synced bytes are still seen.
        findings: broken promises that the cut itself showed.
    """

    cut: Cut
    at_stake: int
    power_went: bool
    findings: tuple[Finding, ...]


class Cutter:
    """Carries out the cuts of one cycle."""

    def __init__(
        self, stand: Stand, plan: CyclePlan, following: CyclePlan, timeline: Timeline
    ) -> None:
        self._stand = stand
        self._power = stand.power
        self._plan = plan
        self._following = following
        self._timeline = timeline
        self._findings: list[Finding] = []
        self._is_armed = False

    def arm(self) -> None:
        """From now on the planned request, if there is one, is fatal."""
        request = self._plan.moment.request
        child = self._stand.child
        if request is not None and child is not None:
            self._power.kill_at(
                request, self._stand.store.path, pid=child.pid, power=self._plan.at_once
            )
            self._is_armed = True
            self._timeline.note("armed", str(request))

    def cut(self, feed: Feed, fault: Fault) -> CutReport:
        """Kill the target, and cut the power if that is planned.

        Args:
            fault: what was injected, and may have ended the target before.
        """
        stand, power, plan = self._stand, self._power, self._plan
        assert stand.child is not None
        if not stand.child.has_ended:
            stand.prepare_cut()
            self._stop_amid_lines(feed, stand.child)
        code = stand.end_child()
        fell = self._is_armed and power.fell()
        feed.end()
        self._timeline.note("kill", f"exit code {code}")
        if code != -9 and not (fault.may_end and code not in (0, None)):
            self._findings.append(
                Finding(
                    Verdict.UNAVAILABLE, None, f"the target ended with {code}: {stand.last_words()}"
                )
            )
        went = fell and plan.at_once
        pending = None if went else power.pending()
        unanswered = sum(sender.unanswered for sender in stand.senders)
        spoilt = fault.spoils_looks
        power.clear()
        fault.end()
        if plan.look_between and not went and not spoilt:
            self._look_between()
        if plan.power and not went:
            self._cut_power()
        feed.end_look()
        stage = plan.stage if fell else _stage(stand.target.requests, pending, unanswered)
        # The request that was cut, or that failed and ended the target, was not done.
        at_stake = unanswered + (pending.operations if pending else 0) + (fell or code != -9)
        is_power = plan.power
        for again in plan.recovery_cuts:
            if self._cut_recovery(again):
                stage, fell = Stage.RECOVER, True
                at_stake += 1  # the request of the recovery that was cut
            is_power = again.power
        cut = Cut(
            self._planned(), stage, plan.power and power.loses_power, fell or feed.moment_came
        )
        return CutReport(cut, at_stake, is_power and power.loses_power, tuple(self._findings))

    def _stop_amid_lines(self, feed: Feed, child: TargetProcess) -> None:
        """Let the target stand still at a moment when it has not answered everything: so that something is at stake."""
        for _ in range(MAX_BURSTS):
            feed.burst()
            child.stop()
            feed.hear()
            if child.has_ended or any(sender.unanswered for sender in self._stand.senders):
                return
            child.send_signal(signal.SIGCONT)

    def _planned(self) -> str:
        text = str(self._plan.moment)
        if self._plan.recovery_cuts:
            text += "; in recovery " + ", ".join(str(c.request) for c in self._plan.recovery_cuts)
        return text

    def _look_between(self) -> None:
        """What a reader shows of the dead process's bytes, it has made durable."""
        look = self._stand.look(self._stand.store.path, self._stand.store.ledger.highest_lsn + 1)
        if look is not None:
            shown = look.wait()
            self._stand.store.ledger.show(shown)
            self._timeline.note("look", f"before the power loss; {len(shown)} more entries")

    def _cut_power(self) -> None:
        self._timeline.note("power-loss", self._power.cut())

    def _cut_recovery(self, again: RecoveryCut) -> bool:
        """Cut while the store recovers; return whether that was early enough."""
        stand, power = self._stand, self._power
        power.kill_at(again.request, stand.store.path, pid=0, power=again.power)
        try:
            became_ready = stand.start(self._following)
        except NotReadyError as error:
            became_ready = True
            self._findings.append(Finding(Verdict.UNAVAILABLE, None, f"after the cut: {error}"))
        code = stand.end_child()
        fell = power.fell()
        power.clear()
        self._timeline.note("recovery-cut", f"{again.request}: {'fell' if fell else 'missed'}")
        if not fell and not became_ready:
            self._findings.append(
                Finding(
                    Verdict.UNAVAILABLE,
                    None,
                    f"recovery ended with {code}: {stand.last_words()}",
                )
            )
        if again.power and not fell:
            self._cut_power()
        return fell and not became_ready


def _stage(requests: Requests, pending: Pending | None, unanswered: int) -> Stage:
    """The stage of a cut by time: what was not synced tells it."""
    if pending is not None:
        paths = [path.partition("/")[2] for path in (*pending.content, *pending.names)]
        for stage in (Stage.FLUSH, Stage.COMPACT, Stage.ROTATE, Stage.SYNC):
            globs = [glob for _, glob, _ in requests.get(stage, ())]
            if any(fnmatchcase(path, glob) for path in paths for glob in globs):
                return stage
    return Stage.APPEND if unanswered else Stage.IDLE
