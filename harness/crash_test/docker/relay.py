"""The generator inside of the container: makes the lines that it is told to make, and passes the answers on.

Commands come on standard input, a number of lines each; the same seed makes the same lines outside, so that the
harness knows what was sent. What the target answers goes to standard output as it is.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from harness.crash_test.senders import connect
from harness.crash_test.workload import lines

CHUNK_SIZE_BYTES = 1 << 16


def main(seed: str, source: str, weight: str, kind: str, *addresses: str) -> None:
    """Send lines until standard input or the target ends.

    Args:
        seed, source: of the lines.
        weight: ``heavy`` or ``light``.
        kind: ``tcp`` or ``unix`` and an address, or ``stdin`` and the two FIFOs of the target.
    """
    command = _read_command(b"")  # with the first one the target is ready
    if kind == "stdin":
        out_fd, in_fd = os.open(addresses[0], os.O_WRONLY), os.open(addresses[1], os.O_RDONLY)
    else:
        connection = connect(addresses[0] if kind == "tcp" else Path(addresses[0]))
        out_fd = in_fd = connection.fileno()
    os.set_blocking(out_fd, False)
    _relay(lines(int(seed), source, heavy=weight == "heavy"), command, out_fd, in_fd)


def _read_command(rest: bytes) -> bytes:
    """Read until a whole command is there; return what there is, empty at the end."""
    while b"\n" not in rest:
        chunk = os.read(0, CHUNK_SIZE_BYTES)
        if not chunk:
            return b""
        rest += chunk
    return rest


def _relay(made: Iterator[bytes], commands: bytes, out_fd: int, in_fd: int) -> None:
    unwritten = bytearray()
    while True:
        *whole, commands = commands.split(b"\n")
        for count in map(int, whole):
            unwritten += b"".join(next(made) + b"\n" for _ in range(count))
        ready = _wait(in_fd, out_fd if unwritten else None)
        if out_fd in ready and unwritten:
            with suppress(BlockingIOError):
                del unwritten[: os.write(out_fd, unwritten)]
        if in_fd in ready:
            with suppress(BlockingIOError):
                answers = os.read(in_fd, CHUNK_SIZE_BYTES)
                if not answers:
                    return
                _write_all(answers)
        if 0 in ready:
            chunk = os.read(0, CHUNK_SIZE_BYTES)
            if not chunk:
                return
            commands += chunk


def _wait(in_fd: int, out_fd: int | None) -> set[int]:
    poll = select.poll()
    poll.register(0, select.POLLIN)
    poll.register(in_fd, select.POLLIN | (select.POLLOUT if out_fd == in_fd else 0))
    if out_fd is not None and out_fd != in_fd:
        poll.register(out_fd, select.POLLOUT)
    return {fd for fd, _ in poll.poll()}


def _write_all(chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    main(*sys.argv[1:])
