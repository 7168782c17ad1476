"""What `kifa-bench check` counts the instructions of. Run under callgrind: ``python -m bench.workloads DIR``.

Each does a fixed amount of work; counts hold every thread of the process, and nothing of its start.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import kifa
from bench import _callgrind
from bench.tables import BLOCK_ENTRIES, ENTRY_SIZE, make_tables
from kifa._lines import LineBuffer
from kifa.export import write_entries
from kifa.query import Selection

ENTRIES = 32 * BLOCK_ENTRIES
GROUP = 512
LINE = b'{"terminal_id":"POS-0036","amount":50,"currency":"KES"}'.ljust(ENTRY_SIZE, b".")
# Nothing but what is counted may run: no flush, no compaction of its own accord.
QUIET = {"memtable_flush_threshold_mib": 64, "compaction_enabled": False}


@contextlib.contextmanager
def counted(name: str) -> Iterator[None]:
    """Count what happens inside."""
    gc.collect()
    gc.disable()
    _callgrind.start()
    try:
        yield
    finally:
        _callgrind.stop(name.encode())
        gc.enable()


def append_one(directory: Path) -> int:
    """Frame and commit, one entry a group."""
    count = 256
    with kifa.open(directory / "one", **QUIET) as log:  # type: ignore[arg-type]
        log.append(LINE)
        with counted("append_one"):
            for _ in range(count):
                log.append(LINE)
    return count


def commit(directory: Path) -> int:
    """Frame and commit, many entries a group."""
    items = [LINE] * GROUP
    with kifa.open(directory / "commit", **QUIET) as log:  # type: ignore[arg-type]
        log.append_many(items)
        with counted("commit"):
            for _ in range(ENTRIES // GROUP):
                log.append_many(items)
    return ENTRIES


def lines(directory: Path) -> int:
    """Cut a stream into lines and frame them, as the daemon does."""
    chunk = (LINE + b"\n") * GROUP
    buffer = LineBuffer()
    with kifa.open(directory / "lines", **QUIET) as log:  # type: ignore[arg-type]
        with counted("lines"):
            for _ in range(ENTRIES // GROUP):
                buffer.feed(chunk)
                while log.frame_lines(buffer)[1]:
                    pass
                log.sync()
        assert log.last_lsn == ENTRIES
    return ENTRIES


def scan(directory: Path) -> int:
    """Recover what `commit` left in the log."""
    entries = ENTRIES + GROUP
    with counted("scan"):
        log = kifa.open(directory / "commit", **QUIET)  # type: ignore[arg-type]
    assert log.last_lsn == entries
    log.close()
    return entries


def flush(directory: Path) -> int:
    """Write a memtable as a table, compressed."""
    entries = ENTRIES + GROUP
    with kifa.open(directory / "commit", **QUIET) as log, counted("flush"):  # type: ignore[arg-type]
        log.flush()
    return entries


def compact(directory: Path) -> int:
    """Join tables."""
    entries = make_tables(directory / "tables", 4 * ENTRIES * ENTRY_SIZE, tables=4)
    with kifa.open(directory / "tables", **QUIET) as log, counted("compact"):  # type: ignore[arg-type]
        log.compact()
    assert len(list((directory / "tables" / "sst").iterdir())) == 1
    return entries


def to_json(directory: Path) -> int:
    """Read tables and format them."""
    reader = kifa.reader(directory / "tables")
    output = os.open(os.devnull, os.O_WRONLY)
    with counted("to_json"):
        write_entries(reader, Selection(), "json", output)
    os.close(output)
    return 4 * ENTRIES


WORKLOADS: tuple[Callable[[Path], int], ...] = (
    append_one,
    commit,
    lines,
    scan,
    flush,
    compact,
    to_json,
)


def main(directory: Path) -> None:
    """Do all in ``directory``, and print how many entries each dealt with."""
    for workload in WORKLOADS:
        print(workload.__name__, workload(directory), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
