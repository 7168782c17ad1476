"""What the programs have in common: lines from standard input, answers to standard output."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator

CHUNK_SIZE_BYTES = 1 << 16


def tell_ready() -> None:
    """Say that the program is ready, in the protocol of sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.sendto(b"READY=1", address)


def batches() -> Iterator[list[bytes]]:
    """Give the lines that came together, until the input ends; a half line is dropped."""
    rest = b""
    while chunk := os.read(0, CHUNK_SIZE_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        if lines:
            yield lines


def acknowledge(first_lsn: int, count: int) -> None:
    """Answer lines."""
    answers = b"".join(b"ACK %d\n" % lsn for lsn in range(first_lsn, first_lsn + count))
    while answers:
        answers = answers[os.write(1, answers) :]


def now_ms() -> int:
    """The time of the wall clock in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def fail(message: str) -> None:
    """End with a message."""
    sys.exit(message)
