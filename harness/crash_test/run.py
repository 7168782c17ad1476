"""A run: sets the stand up, carries out the cycles, and takes everything down again."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path

from harness.crash_test.cycle import Cycle
from harness.crash_test.docker.disk import DockerPower
from harness.crash_test.docker.engine import Engine
from harness.crash_test.docker.stand import DockerStand
from harness.crash_test.errors import CrashTestError
from harness.crash_test.plan import Requests, plan_cycle
from harness.crash_test.power import Power
from harness.crash_test.power.foreign import ForeignPower
from harness.crash_test.power.lazyfs import LazyfsPower
from harness.crash_test.power.sigkill import SigkillPower
from harness.crash_test.processes import ENDING, Child, ending_later
from harness.crash_test.results import CycleResult, RunResult, exit_code_of
from harness.crash_test.settings import Settings
from harness.crash_test.stand import Stand
from harness.crash_test.targets.registry import make_target

KEPT_KERNEL = (
    "with --power sigkill the kernel may have kept what the process wrote and did not sync"
)
MIN_FREE_BYTES = 128 << 20
OnCycle = Callable[[CycleResult], None]


class Run:
    """One run; a context manager, that leaves nothing behind but evidence."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._cycles: list[CycleResult] = []
        self._made: tuple[Path, ...] = ()
        self._evidence: Path | None = None
        """Of the cycle that is under way: it tells nothing if that is interrupted."""

    def __enter__(self) -> Run:
        with ExitStack() as stack:
            self._set_up(stack)
            self._stack = stack.pop_all()
        return self

    def _set_up(self, stack: ExitStack) -> None:
        settings = self._settings
        engine = self._make_engine(stack) if settings.runner == "docker" else None
        with ending_later():
            self._make_directory(stack)
        sockets = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kct-")))
        work = self.directory / "work"
        work.mkdir()
        # A mount that nobody knows of yet would stay in the directory; containers know their run by a label.
        with ending_later() if engine is None else nullcontext():
            self._stand = self._make_stand(stack, engine, work, sockets)
            stack.callback(self._stand.close)

    def _make_directory(self, stack: ExitStack) -> None:
        given = self._settings.data_dir
        if given is None:
            self.directory = Path(tempfile.mkdtemp(prefix="kifa-crash-test-"))
        else:
            given = given.absolute()
            self._made = () if given.exists() else (given,)
            self.directory = given / "kifa-crash-test"
            self.directory.mkdir(parents=True, exist_ok=True)
        stack.enter_context(_sole_use(self.directory))
        check_space(self.directory)
        self._remove_data()  # of a run that was killed
        stack.callback(self._clean_directory)

    def _make_engine(self, stack: ExitStack) -> Engine:
        engine = Engine()
        stack.callback(engine.close)
        engine.build_image(self._settings.base_image)
        return engine

    def _make_stand(
        self, stack: ExitStack, engine: Engine | None, work: Path, sockets: Path
    ) -> Stand:
        settings = self._settings
        target = make_target(settings)
        if engine is not None:
            disk = DockerPower(engine, self.directory, sockets)
            stack.callback(disk.close)
            return DockerStand(engine, settings, disk, target, work, sockets)
        power = make_power(settings, self.directory, sockets)
        stack.callback(power.close)
        return Stand(settings, power, target, work, sockets)

    def _clean_directory(self) -> None:
        """Remove everything but evidence."""
        self._remove_data()
        for path in (self.directory / "evidence", self.directory, *self._made):
            with suppress(OSError):  # there is evidence in it
                path.rmdir()

    def _remove_data(self) -> None:
        for name in ("work", "disk", "synced"):
            # A stale mount cannot be removed; lazyfs replaces it.
            shutil.rmtree(self.directory / name, ignore_errors=True)
        (self.directory / "lazyfs.log").unlink(missing_ok=True)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # Whoever is impatient now would only leave mounts behind.
        previous = {number: signal.signal(number, signal.SIG_IGN) for number in ENDING}
        try:
            for child in set(Child.living) - set(self._stand.power.children):
                child.close()
            if self._evidence is not None and kind in (KeyboardInterrupt, SystemExit):
                shutil.rmtree(self._evidence, ignore_errors=True)
            self._stack.close()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def run(
        self, on_cycle: OnCycle, until: Callable[[CycleResult], bool] = lambda cycle: False
    ) -> RunResult:
        """Carry out all cycles.

        Args:
            on_cycle: told of each.
            until: whether a cycle is the last one that is needed.

        Raises:
            CrashTestError: the target does not start at all, or something that is needed fails.
        """
        began = time.monotonic()
        started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        stand, settings = self._stand, self._settings
        plan = plan_cycle(settings, 1, self._requests())
        start_s = self._begin_store(plan.number)
        for number in range(1, settings.cycles + 1):
            check_space(self.directory)
            following = plan_cycle(settings, number + 1, self._requests())
            evidence = self.directory / "evidence" / f"cycle-{number:04d}"
            shutil.rmtree(evidence, ignore_errors=True)
            self._evidence = evidence
            is_last = number == settings.cycles
            result = Cycle(stand, plan, following, evidence).run(
                start_s, closes=is_last or following.begins_store
            )
            self._evidence = None
            self._cycles.append(result)
            on_cycle(result)
            if until(result):
                break
            plan, start_s = following, result.durations.recovery_s
            if not is_last and (following.begins_store or not result.passed):
                start_s = self._begin_store(plan.number)
        cycles = tuple(self._cycles)
        return RunResult(
            settings,
            versions(settings),
            started_at,
            time.monotonic() - began,
            cycles,
            exit_code_of(cycles),
            () if stand.power.loses_power else (KEPT_KERNEL,),
        )

    def _requests(self) -> Requests:
        return self._stand.target.requests if self._stand.power.has_faults else {}

    def _begin_store(self, number: int) -> float:
        """Start the target on a new store; return how many seconds that took."""
        stand = self._stand
        stand.close_senders()
        stand.end_child()
        stand.new_store()
        plan = plan_cycle(self._settings, number, self._requests())
        began = time.monotonic()
        stand.power.begin_cycle(plan.profile, plan.seed)
        if not stand.start(plan):
            code = stand.end_child()
            raise CrashTestError(
                f"the target does not start (exit code {code}): {stand.last_words()}"
            )
        stand.open_senders(plan)
        return time.monotonic() - began


@contextlib.contextmanager
def _sole_use(directory: Path) -> Iterator[None]:
    """Hold the directory, so that two runs do not share it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise CrashTestError(f"{directory}: another run uses it; choose another -d") from None
    try:
        yield
    finally:
        os.close(descriptor)


def check_space(directory: Path) -> None:
    """Check that the disk below the harness itself is not full: its failures would be taken for the target's.

    Raises:
        CrashTestError: it is, nearly.
    """
    free = shutil.disk_usage(directory).free
    if free < MIN_FREE_BYTES:
        raise CrashTestError(
            f"{directory}: {free} bytes free, {MIN_FREE_BYTES} needed; free some, or choose another -d"
        )


def make_power(settings: Settings, directory: Path, sockets: Path) -> Power:
    """Return the power that the settings name."""
    if settings.power == "sigkill":
        return SigkillPower(directory)
    if settings.lazyfs_root is not None and settings.lazyfs_fifo is not None:
        return ForeignPower(
            settings.lazyfs_root, settings.lazyfs_fifo, settings.lazyfs_completed_fifo
        )
    return LazyfsPower(directory, sockets / "lazyfs")


def versions(settings: Settings) -> dict[str, str]:
    """Return what took part in the run."""
    found = {
        "python": platform.python_version(),
        "kernel": f"{os.uname().sysname} {os.uname().release}",
        "harness": importlib.metadata.version("kifa"),
    }
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(
            [settings.kifa_bin, "--version"], capture_output=True, text=True, timeout=30, check=True
        )
        found["target"] = said.stdout.strip()
    return found


def default_kifa_bin() -> str:
    """Return the ``kifa`` that was installed with this harness, or else the one on the path."""
    beside = Path(sys.executable).with_name("kifa")
    return str(beside) if beside.exists() else "kifa"
