"""All targets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from harness.crash_test.settings import EMBEDDED_TARGET, HOARDING_TARGET, Settings
from harness.crash_test.targets import Target
from harness.crash_test.targets.kifa import (
    DroppingKifaTarget,
    EmbeddedKifaTarget,
    HoardingKifaTarget,
    KifaTarget,
    TamperedKifaTarget,
)
from harness.crash_test.targets.programs import PlainFileTarget, SqliteTarget


def _plain(policy: str) -> Callable[[str, Settings], Target]:
    return lambda name, settings: PlainFileTarget(name, policy)


def _sqlite(synchronous: str) -> Callable[[str, Settings], Target]:
    return lambda name, settings: SqliteTarget(name, synchronous)


def _kifa(kind: type[KifaTarget]) -> Callable[[str, Settings], Target]:
    return lambda name, settings: kind(name, settings.kifa_bin, settings.flush_mode)


TARGETS: Mapping[str, Callable[[str, Settings], Target]] = {
    "kifa": _kifa(KifaTarget),
    EMBEDDED_TARGET: _kifa(EmbeddedKifaTarget),
    "sqlite": _sqlite("FULL"),
    "sqlite-off": _sqlite("OFF"),
    "plain-file": _plain("no-fsync"),
    "plain-file-fsync": _plain("fsync"),
    "ack-before-sync": _plain("late-fsync"),
    "no-directory-sync": _plain("no-directory-sync"),
    "reversed": _plain("reversed"),
    "twice": _plain("twice"),
    "counts-anew": _plain("counts-anew"),
    "lock-file": _plain("lock-file"),
    "silent": _plain("silent"),
    "kifa-tampered": _kifa(TamperedKifaTarget),
    HOARDING_TARGET: _kifa(HoardingKifaTarget),
    "kifa-dropping-decoder": _kifa(DroppingKifaTarget),
}
"""The second half are broken, each in its own way: they prove that the test can fail."""


def make_target(settings: Settings) -> Target:
    """Return the target that the settings name."""
    return TARGETS[settings.target](settings.target, settings)
