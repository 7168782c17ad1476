"""Programs whose behaviour at a power cut is known behave as known."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from lazyfs.profiles import HONEST_PROFILES
from tests.lazyfs.conftest import Mounted, MountFactory

CUTS = 200
ROWS_PER_COMMIT = 3

# One process per run between two cuts: it commits rows 1, 2, 3 ... and says so on its output.
WRITER = """
import sqlite3, sys
path, journal, synchronous, count = sys.argv[1:]
db = sqlite3.connect(path, isolation_level=None)
db.execute(f"PRAGMA journal_mode={journal}")
db.execute(f"PRAGMA synchronous={synchronous}")
db.execute("PRAGMA wal_autocheckpoint=4")
db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, data BLOB)")
last = db.execute("SELECT coalesce(max(n), 0) FROM t").fetchone()[0]
print(last, flush=True)
for _ in range(int(count)):
    db.execute("BEGIN IMMEDIATE")
    for _ in range(3):
        last += 1
        db.execute("INSERT INTO t VALUES (?, zeroblob(700))", (last,))
    db.execute("COMMIT")
    print(last, flush=True)
sys.stdin.read()
"""


class Database:
    """SQLite on a mount, in this process: a cut leaves its descriptors dead, as a kill does."""

    def __init__(self, disk: Mounted, journal: str, synchronous: str) -> None:
        self.disk = disk
        self.path = disk.path / f"{journal}.db"
        self.journal = journal
        self.synchronous = synchronous
        self.acknowledged = 0

    def run_and_cut(self, commits: int, seed: int) -> None:
        """Commit, stop within the life of the database file, and cut the power."""
        database = self._open()
        for _ in range(commits):
            database.execute("BEGIN IMMEDIATE")
            for _ in range(ROWS_PER_COMMIT):
                self.acknowledged += 1
                database.execute("INSERT INTO t VALUES (?, zeroblob(700))", (self.acknowledged,))
            database.execute("COMMIT")
        self.disk.power_loss(seed)
        database.close()

    def count(self) -> int:
        """Rows found after a cut; raises if the database is damaged."""
        database = self._open()
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        (count, last) = database.execute("SELECT count(*), coalesce(max(n), 0) FROM t").fetchone()
        assert count == last
        database.close()
        return int(count)

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, isolation_level=None)
        database.execute(f"PRAGMA journal_mode={self.journal}")
        database.execute(f"PRAGMA synchronous={self.synchronous}")
        database.execute("PRAGMA wal_autocheckpoint=4")
        database.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, data BLOB)")
        return database


@pytest.mark.parametrize("profile", HONEST_PROFILES)
@pytest.mark.parametrize(
    ("journal", "synchronous"), [("WAL", "FULL"), ("DELETE", "EXTRA"), ("DELETE", "FULL")]
)
def test_sqlite_loses_nothing(
    mount: MountFactory, profile: str, journal: str, synchronous: str
) -> None:
    """Over 200 cuts each. FULL does not sync the directory after the journal of a
    DELETE-mode commit was unlinked (EXTRA does), so where names are not durable at once the last
    commit may be rolled back, whole."""
    disk = mount("--profile", profile)
    database = Database(disk, journal, synchronous)
    rng = random.Random(profile + journal)
    may_lose = ROWS_PER_COMMIT if synchronous == "FULL" and journal == "DELETE" else 0
    if profile == "lazyfs":
        may_lose = 0
    for seed in range(CUTS):
        database.run_and_cut(rng.randint(1, 6), seed)
        found = database.count()
        assert database.acknowledged - may_lose <= found <= database.acknowledged
        database.acknowledged = found


@pytest.mark.parametrize("profile", HONEST_PROFILES)
def test_sqlite_without_syncs_loses_or_corrupts(mount: MountFactory, profile: str) -> None:
    disk = mount("--profile", profile)
    database = Database(disk, "DELETE", "OFF")
    lost = damaged = 0
    for seed in range(20):
        for file in disk.path.iterdir():
            file.unlink()
        disk.command("checkpoint")
        database.acknowledged = 0
        database.run_and_cut(4, seed)
        try:
            lost += database.count() < database.acknowledged
        except (sqlite3.DatabaseError, AssertionError):
            damaged += 1
    assert lost + damaged > 0


def test_sqlite_on_a_lying_disk_loses(mount: MountFactory) -> None:
    disk = mount("--profile", "lying-flash")
    database = Database(disk, "WAL", "FULL")
    database.run_and_cut(3, 0)
    assert database.count() == 0


def test_killed_sqlite_then_cut(mount: MountFactory, tmp_path: Path) -> None:
    disk = mount("--profile", "random")
    path = disk.path / "x.db"
    for seed in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), "WAL", "FULL", "5"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        assert writer.stdin is not None
        lines = [int(writer.stdout.readline()) for _ in range(seed + 1)]
        writer.kill()
        writer.wait(20)
        writer.stdin.close()
        writer.stdout.close()
        disk.power_loss(seed)
        database = sqlite3.connect(path)
        assert database.execute("SELECT coalesce(max(n), 0) FROM t").fetchone()[0] >= lines[-1]
        database.close()


def save(path: Path, content: bytes, sync: bool) -> None:
    """An editor's save: a new file, renamed over the old one."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    temporary.rename(path)


@pytest.mark.parametrize("profile", ["lazyfs", "ext4-ordered", "random"])
def test_save_without_fsync_can_leave_an_empty_file(mount: MountFactory, profile: str) -> None:
    disk = mount("--profile", profile)
    found = set()
    for seed in range(60):
        save(disk.path / "letter", b"the old letter", sync=True)
        disk.command("checkpoint")
        save(disk.path / "letter", b"the new letter", sync=False)
        disk.power_loss(seed)
        found.add((disk.path / "letter").read_bytes())
    assert b"" in found


@pytest.mark.parametrize("profile", HONEST_PROFILES)
def test_save_with_fsync_leaves_the_old_or_the_new(mount: MountFactory, profile: str) -> None:
    disk = mount("--profile", profile)
    for seed in range(30):
        save(disk.path / "letter", b"the old letter", sync=True)
        disk.command("checkpoint")
        save(disk.path / "letter", b"the new letter", sync=True)
        disk.power_loss(seed)
        assert (disk.path / "letter").read_bytes() in (b"the old letter", b"the new letter")
