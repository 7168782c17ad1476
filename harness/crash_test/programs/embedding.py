"""An application with Kifa in it: threads of one process share a log, one thread for each connection.

Lines come through connections to a Unix socket. Those of a connection that came together are logged by ``append``,
each by itself, and by ``append_many``, in turns. ``ACK <lsn>`` says that a line is durable; in normal mode
``ACC <lsn>`` says before that that ``append`` has returned for it.

| policy | what it does |
|---|---|
| log | as said |
| hoard | says that lines are accepted, and appends them some time later: more is at risk than may be |

It is run, never imported: the harness and the product share documents and sockets only.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from types import FrameType
from typing import NoReturn

import kifa
from harness.crash_test.programs.lines import CHUNK_SIZE_BYTES, tell_ready

TERMINATED = 143
# How soon a connection hears that what was accepted is durable.
NOTICE_MS = 2
# So many lines are kept, as soon as there are MOST, until no more come.
HOARD_LINES = 70
MOST_LINES = 100
IDLE_S = 0.1


class Worker(threading.Thread):
    """Logs the lines of one connection."""

    def __init__(self, log: kifa.Log, connection: socket.socket) -> None:
        super().__init__(daemon=True)
        self.log = log
        self._connection = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._unconfirmed: deque[int] = deque()
        self._turn = 0

    def run(self) -> None:
        """Log lines until the connection or the log ends; what the log cannot do ends the process."""
        try:
            self._serve()
        except (kifa.ClosedError, ConnectionError):
            pass  # the end of the process, or of the sender
        except (kifa.KifaError, OSError) as error:
            end(error)

    def _serve(self) -> None:
        rest = b""
        while True:
            if self._poll.poll(NOTICE_MS if self._unconfirmed else None):
                chunk = self._connection.recv(CHUNK_SIZE_BYTES)
                if not chunk:
                    return
                *lines, rest = (rest + chunk).split(b"\n")
                if lines:
                    self.store(lines)
            self.confirm()

    def store(self, lines: list[bytes]) -> None:
        """Log lines that came together."""
        self._turn += 1
        if self._turn % 2:
            self._unconfirmed += self.log.append_many(lines)
            return
        for line in lines:
            self.accept(self.log.append(line))

    def accept(self, lsn: int) -> None:
        """Say that a line has an LSN."""
        self._unconfirmed.append(lsn)
        if self.log.flush_mode == "normal":
            self._connection.sendall(b"ACC %d\n" % lsn)
        self.confirm()

    def confirm(self) -> None:
        """Say what is durable."""
        durable_lsn = self.log.durable_lsn
        answers = []
        while self._unconfirmed and self._unconfirmed[0] <= durable_lsn:
            answers.append(b"ACK %d\n" % self._unconfirmed.popleft())
        if answers:
            self._connection.sendall(b"".join(answers))


class Hoarder(Worker):
    """Accepts lines with the LSNs that they will have, if it lives long enough."""

    _lock = threading.Lock()
    _lines: list[bytes] = []  # noqa: RUF012  (of all of them)
    _latest_s = 0.0

    def store(self, lines: list[bytes]) -> None:
        with self._lock:
            Hoarder._latest_s = time.monotonic()
            for line in lines:
                self._lines.append(line)
                self.accept(self.log.last_lsn + len(self._lines))

    def confirm(self) -> None:
        if self._lock.acquire(blocking=False):
            try:
                kept = HOARD_LINES if len(self._lines) >= MOST_LINES else len(self._lines)
                if time.monotonic() > self._latest_s + IDLE_S:
                    kept = 0
                if len(self._lines) > kept:
                    due = len(self._lines) - kept
                    self.log.append_many(self._lines[:due])
                    del self._lines[:due]
            finally:
                self._lock.release()
        super().confirm()


def end(error: Exception) -> NoReturn:
    """End the process, as it is, with the exit code of an error."""
    print(f"embedding: {error}", file=sys.stderr, flush=True)
    os._exit(getattr(error, "exit_code", kifa.ExitCode.FAILURE))


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Leave the loop that accepts connections."""
    sys.exit(TERMINATED)


def run(store: str, address: str, flush_mode: str, policy: str) -> None:
    """Serve connections until SIGTERM; the log is closed then."""
    kind = Hoarder if policy == "hoard" else Worker
    signal.signal(signal.SIGTERM, terminate)
    try:
        with kifa.open(
            store,
            flush_mode=flush_mode,
            # Small, so that a short feed rotates, flushes and compacts.
            segment_size_mib=1,
            memtable_flush_threshold_mib=1,
            compaction_threshold=2,
        ) as log:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(address)
            listener.listen()
            tell_ready()
            while True:
                kind(log, listener.accept()[0]).start()
    except (kifa.KifaError, OSError) as error:
        end(error)


if __name__ == "__main__":
    run(*sys.argv[1:])
