"""Power goes at each change that opening a log makes, one after the other; what it had is served, and it opens again.

`lazyfs` stands below. The child that dies opens the log, appends one entry and closes it again, so that the threads
behind it have made their changes, too.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import kifa
from tests.lazyfs.conftest import Mounted, MountFactory, mount
from tests.reading import read_all

__all__ = ["mount"]

WRITER = """
import os, signal, sys, kifa
log = kifa.open(sys.argv[1], segment_size_mib=1, compaction_threshold=3)
def fill(count, size):
    log.append_many([b"%d " % (log.last_lsn + 1 + i) + b"x" * size for i in range(count)])
    os.write(1, b"%d\\n" % log.last_lsn)
for _ in range(2):
    fill(4, 300_000)
    log.flush()
fill(5, 250_000)
fill(1, 0)
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)\n"
JOINING = "fill(3, 300_000); log.flush(); log.compact()\n" + KILLED

# Answers each path on its input by the LSN that a child was told, or 0, and the child's status.
OPENER = """
import os, sys, traceback, kifa, kifa.engine
for line in sys.stdin:
    ack, child_ack = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            with kifa.open(line.strip(), segment_size_mib=1, compaction_threshold=3) as log:
                os.write(child_ack, b"%d" % log.append(b"%d " % (log.last_lsn + 1)))
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    os.close(child_ack)
    status = os.waitpid(child, 0)[1]
    print(int(os.read(ack, 99) or 0), status, flush=True)
    os.close(ack)
"""


@contextmanager
def opener() -> Iterator[Callable[[Path], tuple[int, int]]]:
    """What opens a store in a child of its own and returns (LSN that was acknowledged or 0, wait status)."""
    with subprocess.Popen(
        [sys.executable, "-c", OPENER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def open_in_child(store: Path) -> tuple[int, int]:
            assert process.stdin is not None
            assert process.stdout is not None
            print(store, file=process.stdin, flush=True)
            acked, status = process.stdout.readline().split()
            return int(acked), int(status)

        yield open_in_child


def write_store(store: Path, end: str) -> int:
    """Run a writer to its end or its death, and return the last LSN that it was told, or 0."""
    result = subprocess.run(
        [sys.executable, "-c", WRITER + end, str(store)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.returncode in (0, -signal.SIGKILL), result.stderr.decode()
    return int((result.stdout.split() or [b"0"])[-1])


def check_entries(store: Path, least: int) -> int:
    entries = read_all(store)
    assert [lsn for lsn, _ in entries] == list(range(1, len(entries) + 1))
    assert all(data.split()[0] == b"%d" % lsn for lsn, data in entries)
    assert len(entries) >= least, "a confirmed entry is lost"
    return len(entries)


def cut_at_each_change(disk: Mounted, op: str, prepare: Callable[[Path], int]) -> int:
    """Prepare a store, open it, and cut the power before its first change that matches ``op``; then its second, ...

    Args:
        prepare: makes a store and returns how many entries are durable in it.

    Returns:
        how many there were.
    """
    with opener() as open_in_child:
        for nth in range(1, 200):
            store = disk.path / f"store-{op[:2]}-{nth}"
            confirmed = prepare(store)
            disk.command("kill", op=op, path=f"{store.name}*", nth=nth, power_loss=True)
            acked, status = open_in_child(store)
            disk.command("clear")
            assert status in (0, signal.SIGKILL)
            if status == 0:
                disk.power_loss()
            found = check_entries(store, max(confirmed, acked))
            for _ in range(2):
                with kifa.open(store, segment_size_mib=1) as log:
                    assert not log.damage, "a power loss is no damage"
                    assert log.append(b"%d " % (log.last_lsn + 1)) == log.last_lsn
                disk.power_loss()
                found = check_entries(store, found + 1)
            shutil.rmtree(store)
            if status == 0:
                return nth - 1
    raise AssertionError("opening never came to its end")


# Those that make or change files, or make them durable. What only reads leaves the state as it was.
CHANGES = ("[cwfmu]*", "rename")


@pytest.mark.parametrize("profile", ["posix-strict", "ext4-ordered"])
@pytest.mark.parametrize("end", ["log.close()", KILLED], ids=["closed", "killed"])
def test_power_goes_at_each_change_of_opening(mount: MountFactory, profile: str, end: str) -> None:
    disk = mount("--profile", profile)
    template = disk.path / "template"
    confirmed = write_store(template, end)
    assert check_entries(template, confirmed) == confirmed

    def prepare(store: Path) -> int:
        shutil.copytree(template, store)
        disk.command("checkpoint")
        return confirmed

    changes = [cut_at_each_change(disk, op, prepare) for op in CHANGES]
    assert changes[0] >= 10
    assert changes[1] >= 2, "the segment and the manifest get their names"


@pytest.mark.parametrize(
    ("profile", "renamed"),
    [
        ("random", "sst/compaction*"),  # a joined table has its name, its inputs are still there
        ("posix-strict", "wal/*.spare"),  # a segment is a spare
    ],
)
def test_power_goes_at_each_change_of_opening_what_has_names_that_are_not_durable(
    mount: MountFactory, profile: str, renamed: str
) -> None:
    disk = mount("--profile", profile, "--seed", "1")

    def prepare(store: Path) -> int:
        disk.command("kill", op="rename", path=f"{store.name}/{renamed}", when="after")
        confirmed = write_store(store, JOINING)
        disk.command("clear")
        return confirmed

    changes = [cut_at_each_change(disk, op, prepare) for op in CHANGES]
    assert changes[0] >= 10
    assert changes[1] >= 2
