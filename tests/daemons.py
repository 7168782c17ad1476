"""The real daemon as a process, for tests."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kifa

DEADLINE_SECONDS = 40.0


def start(data_dir: Path, *options: object, **keywords: Any) -> subprocess.Popen[bytes]:
    """Start a daemon with pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "kifa", "daemon", "-d", str(data_dir), *map(str, options)],
        stdin=keywords.pop("stdin", subprocess.PIPE),
        stdout=keywords.pop("stdout", subprocess.PIPE),
        stderr=keywords.pop("stderr", subprocess.PIPE),
        **keywords,
    )


@contextmanager
def running(data_dir: Path, *options: object, **keywords: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that is ready; it is killed in the end, however that comes."""
    process = start(data_dir, *options, **keywords)
    try:
        read_until(process.stderr, b"ready")
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(condition: Callable[[], Any], what: Callable[[], object] = lambda: None) -> Any:
    """Return what ``condition`` returns as soon as that is true."""
    end = time.monotonic() + DEADLINE_SECONDS
    while not (result := condition()):
        assert time.monotonic() < end, what()
        time.sleep(0.01)
    return result


def unread_bytes(descriptor: Any) -> int:
    """How much waits in a pipe."""
    return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, b"\0" * 4))[0])


def read_until(stream: Any, wanted: bytes) -> bytes:
    """Read from a pipe until ``wanted`` came."""
    found = b""
    end = time.monotonic() + DEADLINE_SECONDS
    while wanted not in found:
        assert select.select([stream], [], [], max(0.0, end - time.monotonic()))[0], found
        chunk = os.read(stream.fileno(), 65536)
        assert chunk, found
        found += chunk
    return found


def data_of(data_dir: Path) -> list[bytes]:
    """All entries; their LSNs are 1, 2, 3, ..."""
    entries = list(kifa.reader(data_dir).entries())
    assert [entry.lsn for entry in entries] == list(range(1, len(entries) + 1))
    return [entry.data for entry in entries]
