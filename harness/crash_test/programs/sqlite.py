"""Lines in a table of SQLite, one transaction for those that came together; how carefully is ``synchronous``."""

from __future__ import annotations

import os
import sqlite3
import sys

from harness.crash_test.programs.lines import acknowledge, batches, now_ms, tell_ready

FILE_NAME = "lines.db"


def run(directory: str, synchronous: str) -> None:
    """Store lines until the input ends."""
    os.makedirs(directory, exist_ok=True)
    parent = os.open(os.path.dirname(directory), os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(parent)  # SQLite syncs the directory of its files, not the one above
    database = sqlite3.connect(f"{directory}/{FILE_NAME}", isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute(
        "CREATE TABLE IF NOT EXISTS entries (lsn INTEGER PRIMARY KEY, time_ms INTEGER, data BLOB)"
    )
    (highest,) = database.execute("SELECT coalesce(max(lsn), 0) FROM entries").fetchone()
    # The table itself is durable, whatever becomes of the entries.
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.execute(f"PRAGMA synchronous={synchronous}")
    tell_ready()
    next_lsn = highest + 1
    for batch in batches():
        time_ms = now_ms()
        database.execute("BEGIN")
        rows = [(lsn, time_ms, line) for lsn, line in enumerate(batch, next_lsn)]
        database.executemany("INSERT INTO entries VALUES (?, ?, ?)", rows)
        database.execute("COMMIT")
        acknowledge(next_lsn, len(batch))
        next_lsn += len(batch)


if __name__ == "__main__":
    run(*sys.argv[1:])
