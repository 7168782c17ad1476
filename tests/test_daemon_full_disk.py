"""A disk that fills up and is freed again, below the real daemon: a small ext4 on a loop device."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import DEADLINE_SECONDS, data_of, read_until, start, wait_for


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An empty file system of 24 MiB."""
    image = tmp_path / "image"
    path = tmp_path / "disk"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def fill(disk: Path) -> Path:
    """Use up all space; return the file to delete."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return filler


def line_of(number: int) -> bytes:
    """Data that does not compress."""
    return b"%d %s" % (number, random.Random(number).randbytes(500).hex().encode())


def test_senders_are_told_and_it_goes_on_by_itself(disk: Path, tmp_path: Path) -> None:
    store = disk / "store"
    options = ("--tcp", "127.0.0.1:0", "--ack", "--segment-size-mib", 1)
    with start(store, *options) as process:
        try:
            ready = read_until(process.stderr, b"ready").decode()
            port = int(re.findall(r"', (\d+)\)", ready)[0])
            peer = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_SECONDS)
            answers = peer.makefile("rb")
            confirmed: list[bytes] = []
            refused = 0

            def send(number: int) -> bool:
                nonlocal refused
                peer.sendall(line_of(number) + b"\n")
                answer = answers.readline()
                if answer == b"ACK %d\n" % (len(confirmed) + 1):
                    confirmed.append(line_of(number))
                    return True
                assert answer == b"ERR no space\n"
                refused += 1
                return False

            for number in range(100):
                assert send(number)
            filler = fill(disk)
            number = 100
            while send(number):
                number += 1
            assert data_of(store) == confirmed  # reading works
            filler.unlink()
            wait_for(lambda: send(number))
            for number in range(10_000, 10_300):
                assert send(number)
            peer.close()
            process.terminate()
            _, errors = process.communicate(timeout=DEADLINE_SECONDS)
            assert process.returncode == 143
            assert f"{refused} refused, 0 lost".encode() in errors
            assert b"there is space again" in errors
        finally:
            process.kill()
    assert data_of(store) == confirmed


def test_pipes_and_files_wait_and_nothing_is_lost(disk: Path, tmp_path: Path) -> None:
    store = disk / "store"
    log = tmp_path / "app.log"
    log.touch()
    errors = tmp_path / "errors"
    options = ("--stdin", "--file", log, "--segment-size-mib", 1)
    with errors.open("wb") as stderr:
        process = start(store, *options, stderr=stderr)
    try:
        assert process.stdin is not None
        wait_for(lambda: "ready" in errors.read_text())
        pipe = process.stdin.fileno()
        os.set_blocking(pipe, False)
        filler = fill(disk)
        lines: list[bytes] = []
        left = b""

        def is_stuck() -> bool:
            nonlocal left
            try:
                while True:
                    if not left:
                        lines.append(b"pipe " + line_of(len(lines)))
                        left = lines[-1] + b"\n"
                    left = left[os.write(pipe, left) :]
            except BlockingIOError:
                return "no room" in errors.read_text().lower()

        wait_for(is_stuck, errors.read_text)
        followed = [b"file " + line_of(number) for number in range(3000)]
        log.write_bytes(b"\n".join(followed) + b"\n")
        before = data_of(store)
        filler.unlink()
        os.set_blocking(pipe, True)
        while left:
            left = left[os.write(pipe, left) :]
        wait_for(lambda: len(data_of(store)) == len(lines) + len(followed), errors.read_text)
        process.terminate()
        assert process.wait(DEADLINE_SECONDS) == 143
        assert "0 refused, 0 lost" in errors.read_text()
    finally:
        process.kill()
        process.communicate()
    found = data_of(store)
    assert found[: len(before)] == before
    assert [line for line in found if line.startswith(b"pipe")] == lines
    assert [line for line in found if line.startswith(b"file")] == followed
