"""The promise under power loss: the writer dies and the power goes at any request to the file system.

`lazyfs` stands below; it and the writer are processes of their own.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kifa
from tests.daemons import DEADLINE_SECONDS
from tests.lazyfs.conftest import MountFactory, mount
from tests.reading import read_all

__all__ = ["mount"]

HONEST_PROFILES = ("lazyfs", "posix-strict", "ext4-ordered", "random")

# Says each acknowledged LSN; small segments and tables, so that every kind of request is made.
WRITER = """
import os, sys, kifa
store, mode = sys.argv[1:]
def ack(lsn):
    os.write(1, b"%d\\n" % lsn)
with kifa.open(store, flush_mode=mode, segment_size_mib=1, compaction_threshold=2) as log:
    for step in range(3):
        for _ in range(5):
            lsn = log.append(b"%d" % (log.last_lsn + 1))
            if mode != "normal":
                ack(lsn)
        first = log.last_lsn + 1
        for lsn in log.append_many([b"%d " % (first + i) + b"x" * 5_000 * (i % 60) for i in range(90)]):
            ack(lsn)
        log.flush()
        log.compact()
    ack(log.append(b"%d" % (log.last_lsn + 1)))
    log.sync()
os.write(1, b"done\\n")
"""


def run(store: Path, flush_mode: str) -> tuple[int, bool, bytes]:
    """Run the writer to its end or its death; return (highest acknowledged LSN, done, error output)."""
    result = subprocess.run(
        [sys.executable, "-c", WRITER, str(store), flush_mode],
        capture_output=True,
        timeout=60,
        check=False,
    )
    lines = result.stdout.splitlines()
    done = bool(lines) and lines[-1] == b"done"
    assert done or result.returncode in (-signal.SIGKILL, 1), result.stderr.decode()
    acked = [int(line) for line in lines if line != b"done"]
    return max(acked, default=0), done, result.stderr


def check_entries(store: Path, acked: int) -> int:
    """The log is an exact prefix that holds every acknowledged entry; return its length."""
    entries = read_all(store) if (store / "wal").exists() else []
    assert len(entries) >= acked, "a confirmed entry is lost"
    for expected, (lsn, data) in enumerate(entries, start=1):
        assert lsn == expected
        assert data.split()[0] == b"%d" % lsn, "an entry is altered or out of place"
    return len(entries)


def check_recovery(store: Path, acked: int) -> None:
    recovered = check_entries(store, acked)
    with kifa.open(store, segment_size_mib=1) as log:
        assert not log.damage, "a power loss is no damage"
        assert log.append(b"%d" % (log.last_lsn + 1)) == log.last_lsn
    assert check_entries(store, acked) >= recovered + 1


# The kinds of request that change what is on disk, or make it durable.
CHANGES = ("write", "fdatasync", "fsync", "fsyncdir", "rename", "create", "unlink", "fallocate")


@pytest.mark.parametrize("profile", HONEST_PROFILES)
@pytest.mark.parametrize("flush_mode", ["cautious", "normal"])
def test_power_goes_at_any_request(mount: MountFactory, profile: str, flush_mode: str) -> None:
    disk = mount("--profile", profile, "--seed", "1")
    choices = random.Random(f"{profile} {flush_mode}")
    for cut in range(8):
        store = disk.path / f"store-{cut}"
        acked = 0
        # The same store loses power three times, also while it recovers.
        for _ in range(3):
            disk.command("clear")
            disk.command(
                "kill",
                op=choices.choice(CHANGES),
                path=f"{store.name}/*",
                nth=choices.randrange(1, 25),
                when=choices.choice(["before", "after"]),
                power_loss=True,
            )
            told, done, _ = run(store, flush_mode)
            acked = max(acked, told)
            if done:
                disk.power_loss()
            disk.command("clear")
            check_entries(store, acked)
        check_recovery(store, acked)


@pytest.mark.parametrize("profile", ["posix-strict", "random"])
def test_what_a_reader_has_shown_survives_a_power_loss(mount: MountFactory, profile: str) -> None:
    disk = mount("--profile", profile)
    store = disk.path / "store"
    script = """
import os, sys, kifa
log = kifa.open(sys.argv[1], flush_mode="normal")
for number in range(1, 30):
    log.append(b"%d" % number)
os.write(1, b"ready\\n")
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        shown = read_all(store)
        process.kill()
        process.wait(timeout=10)
    disk.power_loss()
    assert read_all(store)[: len(shown)] == shown


@pytest.mark.parametrize("operation", ["write", "fdatasync"])
@pytest.mark.parametrize("aftermath", ["dropped", "kept", "reverted"])
def test_a_failed_sync_poisons_and_acknowledges_nothing(
    mount: MountFactory, operation: str, aftermath: str
) -> None:
    disk = mount("--profile", "posix-strict")
    store = disk.path / "store"
    log = kifa.open(store)
    assert [log.append(b"%d" % number) for number in (1, 2, 3)] == [1, 2, 3]
    disk.command("fail", op=operation, path="store/wal/*.wal", errno="EIO", aftermath=aftermath)
    with pytest.raises(kifa.PoisonedError):
        log.append(b"4")
    with pytest.raises(kifa.PoisonedError):
        log.append(b"refused")
    assert log.durable_lsn == 3
    with pytest.raises(kifa.PoisonedError):
        log.close()
    assert check_entries(store, 3) in (3, 4)
    check_recovery(store, 3)
    disk.power_loss()
    check_entries(store, 4)


def test_a_full_disk_refuses_and_goes_on_when_there_is_space(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    store = disk.path / "store"
    disk.command("quota", bytes=3_500_000)
    accepted = []
    with kifa.open(store, segment_size_mib=1) as log:
        refused = 0
        while not refused:
            data = b"%d " % (len(accepted) + 1) + os.urandom(30_000)
            try:
                accepted.append((log.append(data), data))
            except kifa.NoSpaceError:
                refused += 1
            assert len(accepted) < 1_000
        assert log.durable_lsn == len(accepted), (
            "what was accepted is durable, what was refused is not there"
        )
        assert read_all(store) == accepted
        disk.command("quota", bytes=None)
        lsn = log.append(b"%d after" % (len(accepted) + 1))
        assert lsn == len(accepted) + 1, "no LSN was used up"
        accepted.append((lsn, b"%d after" % lsn))
        log.flush()
    disk.power_loss()
    assert read_all(store) == accepted


def flush_as_soon_as_possible(log: kifa.Log) -> None:
    """Wait for a flush that works: one that failed is tried again after a second."""
    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            return log.flush()
        except (OSError, kifa.NoSpaceError):
            assert time.monotonic() < end


@pytest.mark.parametrize("stopped_by", ["a full disk", "a failed sync"])
def test_a_batch_that_fails_says_what_is_stored(mount: MountFactory, stopped_by: str) -> None:
    disk = mount("--profile", "posix-strict")
    store = disk.path / "store"
    with kifa.open(store, segment_size_mib=1) as log:
        log.append(b"1 ")
        items = [b"%d " % lsn + os.urandom(30_000) for lsn in range(2, 400)]
        if stopped_by == "a full disk":
            disk.command("quota", bytes=3_500_000)
            expected: type[Exception] = kifa.NoSpaceError
        else:
            disk.command("fail", op="fdatasync", path="store/wal/*.wal", errno="EIO", nth=4)
            expected = kifa.PoisonedError
        with pytest.raises(expected) as failed:
            log.append_many(items)
        stored = failed.value.appended  # type: ignore[attr-defined]
        assert stored == range(2, log.durable_lsn + 1)
        assert 10 < len(stored) < len(items)
        disk.command("quota", bytes=None)
        disk.command("clear")
        if stopped_by == "a full disk":
            flush_as_soon_as_possible(log)
            log.append_many(items[len(stored) :])
        else:
            with pytest.raises(kifa.PoisonedError):
                log.close()
    disk.power_loss()
    data = [data for _, data in read_all(store)]
    assert data[1 : 1 + len(stored)] == items[: len(stored)]
    assert stopped_by != "a full disk" or data[1:] == items


def test_opening_a_full_disk_says_so(mount: MountFactory) -> None:
    disk = mount()
    disk.command("quota", bytes=100_000)
    with pytest.raises(kifa.NoSpaceError):
        kifa.open(disk.path / "store")
    disk.command("quota", bytes=None)
    with kifa.open(disk.path / "store") as log:
        assert log.append(b"1") == 1
