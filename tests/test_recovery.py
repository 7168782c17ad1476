"""What recovery builds on is durable before it builds on it; a full disk keeps nobody from opening who can be let in.

`lazyfs` stands below: its root directory holds exactly what a power loss would leave.
"""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import kifa
from kifa.fs import make_directory_durably
from kifa.segment_pool import SegmentPool
from kifa.stats import collect_stats
from kifa.verify import verify_store
from tests.conftest import run_python
from tests.lazyfs.conftest import Mounted, MountFactory, mount
from tests.reading import read_all

__all__ = ["mount"]

OPEN = """
import os, signal, sys, kifa
log = kifa.open(sys.argv[1], segment_size_mib=1, compaction_threshold=2)
"""
DIE = "os.kill(os.getpid(), signal.SIGKILL)\n"


def run(store: Path, script: str) -> None:
    """Run a writer that dies."""
    result = subprocess.run(
        [sys.executable, "-c", OPEN + script, str(store)],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()


def synced_names(disk: Mounted, directory: str, suffix: str) -> list[str]:
    return sorted(path.name for path in (disk.root / directory).glob(f"*{suffix}"))


def test_inputs_go_only_after_the_name_of_the_joined_table_is_durable(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    store = disk.path / "store"
    flushes = """
log.append_many([b"%d " % (log.last_lsn + 1 + i) + b"x" * 300_000 for i in range(4)])
log.flush()
"""
    disk.command("kill", op="rename", path="store/sst/compaction*", when="after")
    run(store, flushes * 3 + "log.compact()\n")
    visible = {path.name for path in (store / "sst").glob("*.sst")}
    unsynced = visible - set(synced_names(disk, "store/sst", ".sst"))
    assert unsynced, "at least the joined one"
    disk.command("clear")
    disk.command("kill", op="unlink", path="store/sst/*.sst", when="before", power_loss=True)
    run(store, DIE)
    assert unsynced <= set(synced_names(disk, "store/sst", ".sst"))
    disk.command("clear")
    found = [int(data.split()[0]) for _, data in read_all(store)]
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= 8, "two flushes at least came before the joined table"


def test_a_spare_is_overwritten_only_after_its_name_is_durable(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    store = disk.path / "store"
    disk.command("kill", op="rename", path="store/wal/*.spare", when="after")
    run(
        store,
        """
log.append_many([b"%d " % (log.last_lsn + 1 + i) + b"x" * 300_000 for i in range(8)])
log.flush()
""",
    )
    assert not synced_names(disk, "store/wal", ".spare")
    disk.command("clear")
    disk.command("kill", op="write", path="store/wal/*.spare", when="before", power_loss=True)
    run(store, DIE)
    assert synced_names(disk, "store/wal", ".spare")


def test_a_store_whose_creator_died_is_durable_before_anything_is_confirmed(
    mount: MountFactory,
) -> None:
    disk = mount("--profile", "posix-strict")
    store = disk.path / "store"
    disk.command("kill", op="mkdir", path="store", when="after")
    run(store, "")
    assert not (disk.root / "store").exists()
    disk.command("clear")
    run(store, "log.append(b'confirmed')\n" + DIE)
    disk.power_loss()
    assert read_all(store) == [(1, b"confirmed")]


@pytest.mark.parametrize("times", [1, 2])
def test_a_full_disk_with_a_spare_segment_can_be_opened(mount: MountFactory, times: int) -> None:
    """Also a second time: the segment that nothing was written to is used again."""
    disk = mount("--profile", "posix-strict")
    store = disk.path / "store"
    run(
        store,
        """
log.append_many([b"%d " % (log.last_lsn + 1 + i) + b"x" * 300_000 for i in range(5)])
log.flush()
log.append(b"6 ")
"""
        + DIE,
    )
    spares = sorted((store / "wal").glob("*.spare"))
    for leftover in [*spares[1:], *store.rglob("*.tmp")]:
        leftover.unlink()
    used = disk.command("status")["used_bytes"]
    assert isinstance(used, int)
    disk.command("quota", bytes=used)
    for _ in range(times):
        run(store, DIE)
    with kifa.open(store, segment_size_mib=1) as log:
        assert log.append(b"7 ") == 7
        disk.command("quota", bytes=None)
        log.flush()
    disk.power_loss()
    assert [int(data.split()[0]) for _, data in read_all(store)] == list(range(1, 8))


def test_a_full_disk_keeps_what_recovery_cannot_write_in_memory(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    store = disk.path / "store"
    disk.command("fail", op="create", path="store/sst/*", errno="ENOSPC", forever=True)
    run(
        store,
        """
for _ in range(8):
    log.append_many([b"%d " % (log.last_lsn + 1 + i) + b"x" * 200_000 for i in range(4)])
"""
        + DIE,
    )
    with kifa.open(store, memtable_flush_threshold_mib=1) as log:
        assert log.last_lsn == 32
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            log.flush()
        disk.command("clear")
        log.flush()
        assert log.append(b"33 ") == 33
    assert [int(data.split()[0]) for _, data in read_all(store)] == list(range(1, 34))


def test_a_rotation_whose_name_is_not_synced_poisons(mount: MountFactory) -> None:
    """The new segment can be seen, so an entry in the one before it would not count any more."""
    disk = mount("--profile", "posix-strict")
    store = disk.path / "store"
    log = kifa.open(store, segment_size_mib=1)
    log.append(b"1 " + b"x" * 400_000)  # less than half: no spare is prepared
    disk.command("fail", op="fsyncdir", path="store/wal", errno="EIO")
    with pytest.raises(kifa.PoisonedError):
        log.append(b"2 " + b"x" * 700_000)
    with pytest.raises(kifa.PoisonedError):
        log.append(b"2 small enough for the old segment")
    with pytest.raises(kifa.PoisonedError):
        log.close()
    with kifa.open(store) as log:
        assert log.append(b"2 ") == 2
    disk.power_loss()
    assert [int(data.split()[0]) for _, data in read_all(store)] == [1, 2]


@pytest.mark.parametrize(
    ("operation", "path"), [("rename", "*.spare"), ("fsyncdir", "wal"), ("unlink", "*.wal")]
)
def test_segments_are_recycled_in_order_also_after_an_error(
    mount: MountFactory, operation: str, path: str
) -> None:
    disk = mount("--profile", "posix-strict")
    directory = disk.path / "wal"
    make_directory_durably(directory)
    pool = SegmentPool(disk.path, bytes(16), 1 << 16, [])
    for first_lsn in range(1, 1000, 100):
        os.close(pool.rotate(first_lsn, "cautious").descriptor)
    disk.command("fail", op=operation, path=path, errno="EIO")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        pool.recycle_through(850)
    left = [segment.first_lsn for segment in pool.live]
    assert left == list(range(left[0], 1000, 100)), "whatever is left follows what is before it"
    names = [segment.path.name for segment in pool.live]
    assert names == sorted(file.name for file in directory.glob("*.wal"))
    pool.recycle_through(850)
    assert [segment.first_lsn for segment in pool.live] == [801, 901]
    disk.power_loss()
    assert [int(file.stem, 16) for file in sorted(directory.glob("*.wal"))] == [801, 901]
    assert len(list(directory.glob("*.spare"))) == 4


def test_a_spare_whose_name_could_not_be_synced_is_counted(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    directory = disk.path / "wal"
    make_directory_durably(directory)
    pool = SegmentPool(disk.path, bytes(16), 1 << 16, [])
    disk.command("fail", op="fsyncdir", path="wal", errno="EIO")
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        pool.prepare_spare(abandon=lambda: False)
    assert not pool.needs_spare
    pool.prepare_spare(abandon=lambda: False)
    assert len(list(directory.iterdir())) == 1
    os.close(pool.rotate(1, "cautious").descriptor)
    assert [file.suffix for file in directory.iterdir()] == [".wal"]


def lines_with_position(log: kifa.Log, position: int, lines: int = 1, size: int = 100) -> None:
    """Store lines of a file, and how far it was read, in one group."""
    from kifa._lines import LineBuffer

    buffer = LineBuffer()
    buffer.feed((b"x" * (size - 1) + b"\n") * lines)
    log.frame_lines(buffer, hold=True)
    log.frame_source_checkpoint("file", position)
    log._writer.commit()


def test_tables_that_recovery_writes_know_how_far_the_sources_were_read(store: Path) -> None:
    """Also those of memtables that are flushed before the newest one."""
    script = """
import tests.test_recovery as here
here.lines_with_position(log, 1)
log.flush()
here.lines_with_position(log, 2)
for _ in range(6):
    log.append_many([b"x" * 100_000] * 8)
"""
    run(store, script + DIE)
    dies = """
import os, sys, kifa
import kifa.table_set
kifa.table_set.write_manifest = lambda *_: os._exit(9)
kifa.open(sys.argv[1], segment_size_mib=1, memtable_flush_threshold_mib=1)
"""
    subprocess.run([sys.executable, "-c", dies, str(store)], timeout=60, check=False)
    assert len(list((store / "sst").glob("*.sst"))) == 2, "recovery had to write one"
    with kifa.open(store) as log:
        assert log.sources == {"file": 2}


def test_a_clock_step_in_the_group_that_is_written_again_counts_once(store: Path) -> None:
    """It is in the old segment and in the new one, and in a table after that."""
    script = """
import struct
from kifa import control
log.append(b"before")
log._writer.frame_control(control.CLOCK_STEP, struct.pack("<QQ", 1_000, 90_000))
log.append(b"after the step")
"""
    run(store, script + DIE)
    for _ in range(3):
        assert collect_stats(store).clock_steps == ((1, 1_000, 90_000),)
        run(store, DIE)
    for script in ("log.flush()\n", "", "log.append(b'more')\nlog.flush()\n"):
        run(store, script + DIE)
        assert collect_stats(store).clock_step_count == 1


# Killed with all of its entries in the WAL.
LARGE_LOG_WRITER = """
import os, sys, kifa
log = kifa.open(sys.argv[1], segment_size_mib=1, memtable_flush_threshold_mib=64)
for number in range(30):
    log.append_many([b"%d %d" % (number, n) + b"x" * 1000 for n in range(100)])
    log.frame_source_checkpoint("file", number)
log.sync()
os.kill(os.getpid(), 9)
"""


def test_a_large_log_is_read_ahead(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_python(LARGE_LOG_WRITER, str(store))
    monkeypatch.setattr("kifa.recovery.LARGE_LOG_SIZE_BYTES", 0)
    with kifa.open(store, memtable_flush_threshold_mib=1) as log:
        assert log.damage == []
        assert log.last_lsn == 3000
        assert log.sources == {"file": 29}
        log.flush()
    entries = [entry.data for entry in kifa.reader(store).entries()]
    assert entries == [
        b"%d %d" % (number, n) + b"x" * 1000 for number in range(30) for n in range(100)
    ]


def test_the_segment_in_use_does_not_become_one_that_is_too_short(mount: MountFactory) -> None:
    """On a full disk: it holds no entry, but the one that is to come needs a larger segment."""
    disk = mount("--profile", "posix-strict")
    store = disk.path / "store"
    with kifa.open(store, segment_size_mib=1) as log:
        used = disk.command("status")["used_bytes"]
        disk.command("quota", bytes=used)
        with pytest.raises(kifa.NoSpaceError):
            log.append(bytes(1 << 20))
        assert log.append(b"small") == 1
        disk.command("quota", bytes=None)
        assert log.append(bytes(1 << 20)) == 2
    disk.power_loss()
    assert [len(data) for _, data in read_all(store)] == [5, 1 << 20]
    assert verify_store(store).intact
