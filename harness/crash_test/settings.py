"""What a run is asked to do: the options of the command line, as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.crash_test.errors import SettingsError
from harness.oracle import FlushMode

MIXED = "mixed"
"""As a source, a profile or a fault: each cycle draws its own from the seed."""

POWERS = ("sigkill", "lazyfs")
RUNNERS = ("local", "docker")
SOURCES = ("stdin", "tcp", "unix", "file")
EMBEDDED_TARGET = "kifa-embedded"
HOARDING_TARGET = "kifa-hoarding"
THREADS_SOURCE = "unix"
"""How lines reach the threads of a program that embeds Kifa: a connection for each."""
PROFILES = ("lazyfs", "posix-strict", "ext4-ordered", "random")
"""The honest profiles of lazyfs, those that ``mixed`` draws from."""
LYING_PROFILE = "lying-flash"
DEFAULT_BASE_IMAGE = "debian:bookworm-slim"
FAULTS = ("none", "eio", "enospc", "bitrot", "slow", "clock")


@dataclass(frozen=True, slots=True)
class Settings:
    """One run.

    Attributes:
        cycles: how many.
        flush_mode: of the target.
        rate: lines per second; 0 is unthrottled.
        seed: same seed, same lines, same moments, same faults.
        power: ``sigkill`` (the kernel keeps what was written) or ``lazyfs`` (what is not synced is lost).
        profile: of lazyfs, or ``mixed``.
        runner: ``local`` processes or a ``docker`` container.
        source: how lines reach the target, or ``mixed``.
        target: what is tested, a name of `harness.crash_test.targets`.
        faults: what goes wrong beside the power, or ``mixed``.
        data_dir: where disk, journal and evidence are made; None for a temporary directory.
        report_dir: where report.json, JUnit XML and report.html are written; None for nowhere.
        json: the result is printed as JSON.
        keep: the evidence is kept though every cycle passed.
        kifa_bin: the command to test.
        lazyfs_root, lazyfs_fifo, lazyfs_completed_fifo: a mount that somebody else made, with its FIFOs.
        feed_seconds: the longest feed of a cycle.
        patience_seconds: how long a target may take to start, and may answer nothing to lines.
        base_image: what the image of the docker runner stands on.
    """

    cycles: int = 100
    flush_mode: FlushMode = FlushMode.CAUTIOUS
    rate: float = 500.0
    seed: int = 0
    power: str = "lazyfs"
    profile: str = PROFILES[0]
    runner: str = "local"
    source: str = "stdin"
    target: str = "kifa"
    faults: str = "none"
    data_dir: Path | None = None
    report_dir: Path | None = None
    json: bool = False
    keep: bool = False
    kifa_bin: str = "kifa"
    lazyfs_root: Path | None = None
    lazyfs_fifo: Path | None = None
    lazyfs_completed_fifo: Path | None = None
    feed_seconds: float = 1.0
    patience_seconds: float = 30.0
    base_image: str = DEFAULT_BASE_IMAGE

    def check(self) -> None:
        """Check that the settings go together.

        Raises:
            SettingsError: they do not.
        """
        foreign = (self.lazyfs_root, self.lazyfs_fifo)
        if any(foreign) and not all(foreign):
            raise SettingsError("--lazyfs-root and --lazyfs-fifo go together")
        if not self.target.startswith("kifa") and self.source != "stdin":
            raise SettingsError(f"--target {self.target} reads stdin only")
        if self.target in (EMBEDDED_TARGET, HOARDING_TARGET):
            if self.source != THREADS_SOURCE:
                raise SettingsError(f"--target {self.target} needs --source {THREADS_SOURCE}")
            if self.faults in ("enospc", MIXED):
                raise SettingsError(
                    f"--target {self.target}: append_many does not tell what a full disk had no room for"
                )
        if self.faults in ("bitrot", MIXED) and not self.target.startswith("kifa"):
            raise SettingsError(
                f"--faults {self.faults} needs --target kifa, whose reader names damage"
            )
        if self.runner == "docker" and (any(foreign) or self.power != "lazyfs"):
            raise SettingsError("--runner docker brings a lazyfs mount of its own")
        if self.power == "sigkill" or any(foreign):
            if self.faults not in ("none", "clock"):
                raise SettingsError(f"--faults {self.faults} needs a lazyfs mount of our own")
            if self.profile != PROFILES[0]:
                raise SettingsError(f"--profile {self.profile} needs a lazyfs mount of our own")

    def command_line(self, cycles: int | None = None) -> tuple[str, ...]:
        """The command that repeats this run.

        Args:
            cycles: end after so many; the cycles up to a failure are needed, later ones are not.
        """
        words = ["kifa-crash-test", "--seed", str(self.seed)]
        default = Settings()
        plain = {
            "--cycles": (cycles or self.cycles, default.cycles),
            "--flush-mode": (self.flush_mode.value, default.flush_mode.value),
            "--rate": (f"{self.rate:g}", f"{default.rate:g}"),
            "--profile": (self.profile, default.profile),
            "--runner": (self.runner, default.runner),
            "--source": (self.source, default.source),
            "--target": (self.target, default.target),
            "--faults": (self.faults, default.faults),
            "--base-image": (self.base_image, default.base_image),
            "--feed-seconds": (f"{self.feed_seconds:g}", f"{default.feed_seconds:g}"),
            "--patience-seconds": (f"{self.patience_seconds:g}", f"{default.patience_seconds:g}"),
            "--kifa-bin": (self.kifa_bin, default.kifa_bin),
            "--lazyfs-root": (self.lazyfs_root, None),
            "--lazyfs-fifo": (self.lazyfs_fifo, None),
            "--lazyfs-completed-fifo": (self.lazyfs_completed_fifo, None),
        }
        for option, (value, usual) in plain.items():
            if value != usual:
                words += [option, str(value)]
        return (*words, "--power", self.power)
