"""Random lives of a store on lazyfs: opened, written, killed, cut off from power, failed by its disk, and opened again.

A life is drawn from its seed. What is checked after each session: the log is an exact prefix of what was tried, all
that was acknowledged is in it, what was refused is not, and nothing that a reader has shown has gone. In the end, in
some lives, bits rot: whatever is not served is named.

    KIFA_LIVES=1 KIFA_LIVES_SEED=4711 python -m pytest -s tests/test_many_lives.py    one life again
    KIFA_LIVES=100000 KIFA_LIVES_SECONDS=7200 python -m pytest tests/test_many_lives.py     two hours (ci/nightly)

Threads and the writer's background work come as the machine lets them, so a seed draws the same life, not the same
microseconds: run it some more times (`KIFA_LIVES=20 KIFA_LIVES_REPEAT=1`).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import kifa
from kifa.stats import collect_stats
from kifa.verify import verify_store
from tests.lazyfs.conftest import Mounted, MountFactory, mount
from tests.lives import content

__all__ = ["mount"]

LIVES = int(os.environ.get("KIFA_LIVES", "10"))
FIRST_SEED = int(os.environ.get("KIFA_LIVES_SEED", "1"))
SECONDS = float(os.environ.get("KIFA_LIVES_SECONDS", "inf"))
REPEAT = os.environ.get("KIFA_LIVES_REPEAT") == "1"

HONEST_PROFILES = ("lazyfs", "posix-strict", "ext4-ordered", "random")
CHANGES = (
    "write",
    "fdatasync",
    "fsync",
    "fsyncdir",
    "rename",
    "create",
    "unlink",
    "fallocate",
    "mkdir",
)
PATHS = ("*", "*", "wal/*", "sst/*", "manifest*", "*.spare")
ROOT = Path(__file__).parent.parent


@dataclass
class Model:
    """What may and what must be in the log."""

    tried: dict[str, int] = field(default_factory=dict)  # identity to the order of the tries
    acked: dict[int, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    shown: list[str] = field(default_factory=list)  # by LSN, from 1

    def hear(self, line: str) -> None:
        kind, _, rest = line.partition(" ")
        if kind == "t":
            self.tried[rest] = len(self.tried)
        elif kind == "a":
            lsn, _, identity = rest.partition(" ")
            assert self.acked.setdefault(int(lsn), identity) == identity, f"LSN {lsn} told twice"
        elif kind == "r":
            self.refused.add(rest)

    def check(self, found: dict[int, bytes], lost: set[int] = frozenset()) -> list[str]:  # type: ignore[assignment]
        """Check entries by LSN, of which those in ``lost`` may be missing. Return identities by LSN."""
        identities = {lsn: data.partition(b" ")[0].decode() for lsn, data in found.items()}
        for lsn, identity in identities.items():
            assert identity in self.tried, f"LSN {lsn}: {identity!r} was never written"
            assert found[lsn] == content(identity), f"LSN {lsn}: {identity} is altered"
            assert identity not in self.refused, f"LSN {lsn}: {identity} was refused"
        assert len(set(identities.values())) == len(identities), "an entry is there twice"
        for lsn, identity in self.acked.items():
            there = identities.get(lsn)
            assert there == identity or lsn in lost, f"LSN {lsn}: acked {identity}, found {there}"
        last: dict[str, int] = {}
        for lsn in sorted(identities):
            thread, _, number = identities[lsn].rpartition(".")
            assert last.get(thread, -1) < int(number), f"LSN {lsn}: {identities[lsn]} out of order"
            last[thread] = int(number)
        return [identities[lsn] for lsn in sorted(identities)]


class Life:
    """One store from its first session to its end."""

    def __init__(self, disk: Mounted, seed: int) -> None:
        self.disk, self.seed = disk, seed
        self.choices = random.Random(seed)
        self.name = f"life-{seed}"
        self.store = disk.path / self.name
        self.model = Model()
        self.story: list[str] = []
        self.faulty = False  # in the session that runs, or did last
        self.sync_failed = False
        self.cut_next = False
        self.only_killed = False  # what the last session left is partly in the page cache only

    def run(self) -> None:
        profile = self.choices.choice(HONEST_PROFILES)
        self.disk.command("profile", name=profile, seed=self.choices.randrange(1 << 30))
        self.story.append(f"profile {profile}")
        for number in range(self.choices.randrange(2, 7)):
            self.session(number)
        self.calm()
        self.reopen()
        if self.choices.random() < 0.4:
            self.rot()

    def session(self, number: int) -> None:
        settings = {
            "flush_mode": self.choice("cautious", "cautious", "normal", "emergency"),
            "segment_size_mib": self.choice(1, 1, 1, 2),
            "memtable_flush_threshold_mib": self.choice(1, 1, 2),
            "compaction_threshold": self.choice(2, 2, 3),
            "compaction_enabled": self.choices.random() < 0.8,
            "channel_capacity": self.choice(1, 3, 100, 16_384, 16_384),
        }
        end = self.choice("close", "exit")
        plan = {"settings": settings, "steps": self.choices.randrange(0, 14), "end": end}
        self.set_traps()
        told, code = self.write(f"{self.seed}.{number}", plan)
        cut = self.choices.random() < 0.4 or self.cut_next
        if cut and code == 0:
            self.disk.power_loss()
        self.only_killed = not cut
        self.story.append(
            f"session {number}: {json.dumps(plan)}; exit {code}; cut {cut}; {told[-1:]}"
        )
        self.calm()
        self.look()

    def choice(self, *values: object) -> object:
        return self.choices.choice(values)

    def set_traps(self) -> None:
        """Draw what goes wrong in the next session."""
        unsure, self.faulty, self.sync_failed = self.sync_failed, False, False
        self.cut_next = unsure and self.only_killed
        if self.cut_next:
            return  # what follows a failed sync is confirmed, and then the power goes
        if self.choices.random() < 0.25:
            self.faulty = self.sync_failed = True
            self.trap(
                "fail",
                op="fdatasync",
                path=f"{self.name}/wal/*",
                nth=self.choices.randrange(1, 9),
                errno="EIO",
                aftermath="dropped",
            )
            return
        trap = self.choices.choices(["kill", "fail", "quota", "none"], [9, 6, 2, 2])[0]
        where = f"{self.name}/{self.choices.choice(PATHS)}"
        nth = self.choices.choice([1, 2, 3, 5, 8, 13, 21, 40, 80, self.choices.randrange(1, 200)])
        if self.only_killed and self.choices.random() < 0.4:
            # Power goes while the next one recovers, or soon after.
            self.trap(
                "kill",
                op=self.choices.choice(CHANGES),
                path=f"{self.name}/*",
                nth=self.choices.randrange(1, 12),
                when=self.choice("before", "after"),
                power_loss=True,
            )
            return
        if trap == "fail":
            self.faulty = True
            rule = {
                "op": self.choices.choice(("fdatasync", "fsync", *CHANGES[:-1])),
                "path": where,
                "nth": nth,
                "errno": self.choices.choice(["EIO", "EIO", "ENOSPC"]),
                "forever": self.choices.random() < 0.2,
            }
            if "sync" in str(rule["op"]):
                rule["aftermath"] = self.choices.choice(["kept", "dropped", "reverted"])
            self.sync_failed = "sync" in str(rule["op"]) or rule["op"] == "write"
            self.trap("fail", **rule)
        elif trap == "quota":
            self.faulty = True
            used = self.disk.command("status")["used_bytes"]
            assert isinstance(used, int)
            self.trap("quota", bytes=used + self.choices.randrange(0, 6_000_000))
        if trap == "kill" or (trap != "none" and self.choices.random() < 0.5):
            self.trap(
                "kill",
                op=self.choices.choice(CHANGES),
                path=where,
                nth=nth,
                when=self.choice("before", "after"),
                power_loss=self.choices.random() < 0.5,
            )

    def trap(self, command: str, **arguments: object) -> None:
        self.story.append(f"{command} {json.dumps(arguments)}")
        self.disk.command(command, **arguments)

    def calm(self) -> None:
        self.disk.command("clear")
        self.disk.command("quota", bytes=None)

    def write(self, name: str, plan: dict[str, object]) -> tuple[list[str], int]:
        """Run a session to its end or its death; return what it told."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.lives", str(self.store), name, json.dumps(plan)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
        )
        try:
            output, errors = process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)
            output, errors = process.communicate(timeout=20)
            raise AssertionError(f"the writer hangs: {errors.decode()[-3000:]}") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        told = output.decode().splitlines()
        if output and not output.endswith(b"\n"):
            told.pop()
        for line in told:
            self.model.hear(line)
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()[-3000:]
        refused = [line for line in told if line.startswith("f ")]
        # A process that was killed may live for a moment in which its files are gone with the power.
        killed = process.returncode != 0
        assert self.faulty or killed or not refused, f"cannot be opened: {refused}"
        damage = [line for line in told if line.startswith("d ")]
        assert not damage, f"a crash is no damage: {damage}"
        return told, process.returncode

    def look(self) -> None:
        """Read all, as a reader beside everything would, and check it."""
        if not ((self.store / "wal").is_dir() or (self.store / "manifest").exists()):
            assert not self.model.acked
            return
        found = {entry.lsn: entry.data for entry in kifa.reader(self.store).entries()}
        assert sorted(found) == list(range(1, len(found) + 1))
        identities = self.model.check(found)
        kept = self.model.shown[: len(identities)]
        assert identities[: len(kept)] == kept, "what was shown is another entry now"
        if not self.sync_failed:
            # A reader cannot know that the sync of the last group had failed before it looked (docs/FORMAT.md).
            assert len(identities) >= len(self.model.shown), "what was shown is gone"
            self.model.shown = identities

    def reopen(self) -> None:
        """Nothing is wrong now: it opens, is whole, and goes on."""
        with kifa.open(self.store, segment_size_mib=1) as log:
            assert not log.damage, [str(damage) for damage in log.damage]
            before = log.last_lsn
            identity = f"{self.seed}.last.0"
            self.model.hear(f"t {identity}")
            self.model.hear(f"a {log.append(content(identity))} {identity}")
        self.sync_failed = False
        self.look()
        report = verify_store(self.store)
        assert report.intact, report.to_text()
        assert report.entries == collect_stats(self.store).total_entries == before + 1

    def rot(self) -> None:
        """Bits rot anywhere. Whatever is not served is named, now and after the writer was there again."""
        files = [p for p in sorted(self.store.rglob("*")) if p.is_file() and p.stat().st_size]
        files = [p for p in files if p.suffix != ".spare"]
        for _ in range(self.choices.randrange(1, 4)):
            path = self.choices.choice(files)
            content_of_file = bytearray(path.read_bytes())
            used = len(content_of_file.rstrip(b"\0")) or 1
            at = self.choices.randrange(used)
            content_of_file[at] ^= 1 << self.choices.randrange(8)
            path.write_bytes(content_of_file)
            self.story.append(f"rot {path.name} at {at}")
        self.look_at_damage()
        for number in range(2):
            with kifa.open(self.store, segment_size_mib=1, compaction_threshold=2) as log:
                identity = f"{self.seed}.rotten.{number}"
                self.model.hear(f"t {identity}")
                self.model.hear(f"a {log.append(content(identity))} {identity}")
                log.flush()
                log.compact()
            self.look_at_damage()

    def look_at_damage(self) -> None:
        found: dict[int, bytes] = {}
        lost: set[int] = set()
        end = max(self.model.acked)
        try:
            for entry in kifa.reader(self.store).entries():
                found[entry.lsn] = entry.data
        except kifa.DamagedError as error:
            for damage in error.damage:
                if damage.first_lsn is not None:
                    last = end if damage.last_lsn is None else min(damage.last_lsn, end)
                    lost.update(range(damage.first_lsn, last + 1))
        self.model.check(found, lost)


@pytest.mark.timeout(max(120, 20 * LIVES))
def test_many_lives(mount: MountFactory) -> None:
    deadline = time.monotonic() + SECONDS
    disk = mount()
    for number in range(LIVES):
        seed = FIRST_SEED if REPEAT else FIRST_SEED + number
        life = Life(disk, seed)
        try:
            life.run()
        except BaseException as error:
            keep = os.environ.get("KIFA_LIVES_KEEP")
            if keep and life.store.exists():
                shutil.copytree(life.store, Path(keep) / life.name, dirs_exist_ok=True)
            command = f"KIFA_LIVES=1 KIFA_LIVES_SEED={seed} python -m pytest -s tests/{Path(__file__).name}"
            error.add_note("\n".join([f"life {seed}; again: {command}", *life.story]))
            raise
        finally:
            life.calm()
        shutil.rmtree(life.store, ignore_errors=True)
        if time.monotonic() > deadline:
            break
