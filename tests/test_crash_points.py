"""The process dies before or after each call that changes the disk; then the store is opened and used again.

The page cache survives here: what a power loss does to the same steps is the harness's part. What this shows is that
every leftover of every step is understood.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kifa
from tests.reading import read_all

# Dies at the call number sys.argv[2] of those that change the disk, before or after it, and tells each acknowledged
# LSN before it goes on. Patches the functions of the process it runs in, not the product.
WRITER = """
import os, signal, sys

store, fatal, moment = sys.argv[1], int(sys.argv[2]), sys.argv[3]
calls = 0

def wrapped(name, function):
    def call(*arguments, **keywords):
        global calls
        calls += 1
        mine = calls
        if mine == fatal and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **keywords)
        if mine == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call

real_open = os.open
def counting_open(path, flags, *rest, **keywords):
    if flags & os.O_CREAT:
        return creating_open(path, flags, *rest, **keywords)
    return real_open(path, flags, *rest, **keywords)
creating_open = wrapped("open", real_open)
os.open = counting_open
for name in ("rename", "unlink", "fsync", "pwrite", "posix_fallocate", "mkdir"):
    setattr(os, name, wrapped(name, getattr(os, name)))
real_write = os.write
os.write = lambda fd, data: (real_write if fd == 1 else counting_write)(fd, data)
counting_write = wrapped("write", real_write)

import kifa

def ack(lsn):
    real_write(1, b"%d\\n" % lsn)

with kifa.open(store, segment_size_mib=1, compaction_threshold=2) as log:
    ack(log.append(b"%d" % (log.last_lsn + 1)))
    for step in range(3):
        first = log.last_lsn + 1
        for lsn in log.append_many([b"%d" % (first + i) for i in range(50)]):
            ack(lsn)
        first = log.last_lsn + 1
        log.append_many([b"%d " % (first + i) + b"x" * 600_000 for i in range(2)])
        ack(log.last_lsn)
        log.flush()
        log.compact()
real_write(1, b"done %d\\n" % calls)
"""


def run_until_death(store: Path, call: int, moment: str) -> tuple[int, bool]:
    """Return (highest acknowledged LSN, whether the writer got to its end)."""
    result = subprocess.run(
        [sys.executable, "-c", WRITER, str(store), str(call), moment],
        capture_output=True,
        check=False,
        timeout=60,
    )
    lines = result.stdout.splitlines()
    done = bool(lines) and lines[-1].startswith(b"done")
    assert done or result.returncode == -signal.SIGKILL, result.stderr.decode()
    acked = [int(line) for line in lines if not line.startswith(b"done")]
    return max(acked, default=0), done


def check(store: Path, acked: int) -> None:
    """The store is an exact prefix that holds every acknowledged entry, before and after recovery."""
    if (store / "wal").exists():
        before = read_all(store)
        assert [lsn for lsn, _ in before] == list(range(1, len(before) + 1))
        assert len(before) >= acked
    for _ in range(2):
        with kifa.open(store, segment_size_mib=1) as log:
            assert not log.damage
            assert log.append(b"%d" % (log.last_lsn + 1)) == log.last_lsn
    after = read_all(store)
    assert len(after) >= acked + 2
    for expected, (lsn, data) in enumerate(after, start=1):
        assert lsn == expected
        assert data.split()[0] == b"%d" % lsn
    leftovers = list(store.rglob("*.tmp"))
    assert not leftovers


def calls_of_a_whole_run(tmp_path: Path) -> int:
    result = subprocess.run(
        [sys.executable, "-c", WRITER, str(tmp_path / "whole"), "0", "before"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    return int(result.stdout.splitlines()[-1].split()[1])


# Spread over parameters so that a failure names its part; each takes every eighth call.
@pytest.mark.parametrize("part", range(8))
def test_dying_at_any_call_loses_nothing(tmp_path: Path, part: int) -> None:
    for call in range(1 + part, calls_of_a_whole_run(tmp_path) + 1, 8):
        store = tmp_path / f"store-{call}"
        acked, _ = run_until_death(store, call, "before" if call % 2 else "after")
        check(store, acked)
        shutil.rmtree(store)


def test_dying_again_during_recovery_loses_nothing(tmp_path: Path) -> None:
    """The same store dies over and over, each time a little later, and is only ever opened by the one that dies."""
    store = tmp_path / "store"
    acked = 0
    for call in range(1, 60, 2):
        told, _ = run_until_death(store, call, "after")
        acked = max(acked, told)
    check(store, acked)


def test_rubbish_in_the_directories_is_left_alone(store: Path) -> None:
    with kifa.open(store) as log:
        log.append(b"1")
    (store / "sst" / "notes.txt").write_text("mine")
    (store / "wal" / "README").write_text("mine")
    (store / "wal" / "0000000000000001.wal.tmp").write_text("leftover")
    (store / "manifest.tmp").write_text("leftover")
    check(store, 1)
    assert (store / "sst" / "notes.txt").read_text() == "mine"
    assert (store / "wal" / "README").read_text() == "mine"


def files_of(store: Path) -> Iterator[Path]:
    return (path for path in store.rglob("*") if path.is_file())


def test_a_lost_manifest_is_rebuilt(store: Path) -> None:
    with kifa.open(store) as log:
        log.append_many([b"%d" % i for i in range(1, 101)])
        log.flush()
        log.append(b"101")
    (store / "manifest").unlink()
    check(store, 101)
    os.truncate(store / "manifest", 30)
    entries = read_all_despite_damage(store)
    assert len(entries) == 103
    with kifa.open(store) as log:
        assert log.last_lsn == 103


def read_all_despite_damage(store: Path) -> list[bytes]:
    found = []
    try:
        for entry in kifa.reader(store).entries():
            found.append(entry.data)
    except kifa.DamagedError:
        pass
    return found


def test_a_lost_table_is_taken_from_the_log_while_it_has_it(store: Path) -> None:
    with kifa.open(store) as log:
        log.append_many([b"%d" % i for i in range(1, 101)])
        log.flush()
        log.append(b"101")
    for path in (store / "sst").iterdir():
        path.unlink()
    check(store, 101)


def test_a_lost_table_is_named_and_the_rest_served(store: Path) -> None:
    with kifa.open(store, segment_size_mib=1, compaction_enabled=False) as log:
        for part in range(3):
            log.append_many([b"%d " % (part * 10 + i + 1) + b"x" * 300_000 for i in range(10)])
            log.flush()
    tables = sorted((store / "sst").iterdir())
    middle = tables[len(tables) // 2]
    first, last = (int(part, 16) for part in middle.stem.split("-"))
    middle.unlink()
    with kifa.open(store) as log:
        named = {(d.first_lsn, d.last_lsn) for d in log.damage}
        served = {int(data.split()[0]) for data in read_all_despite_damage(store)}
        lost = set(range(1, 31)) - served
        assert lost <= set(range(first, last + 1))
        if lost:
            assert any(a <= min(lost) and max(lost) <= b for a, b in named if a and b)
        assert log.append(b"31") == 31
