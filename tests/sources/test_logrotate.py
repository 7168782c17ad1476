"""Debian's logrotate rotates a file that is written all the time, while the daemon that follows it is killed.

Exactly-once means: what is stored is what was written, but what a truncation costs, and each of those is reported.
"""

from __future__ import annotations

import itertools
import re
import subprocess
import threading
from pathlib import Path

import pytest

from tests.daemons import wait_for
from tests.sources.tails import Tail

KILLS = 50
ROTATIONS = 12


class Writer(threading.Thread):
    """Appends numbered lines until it is told to end, and follows its file as a daemon does that logrotate knows."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.count = 0
        self.should_reopen = threading.Event()
        self.should_end = threading.Event()

    def run(self) -> None:
        while not self.should_end.is_set():
            self.should_reopen.clear()
            with self.path.open("ab", buffering=0) as file:
                while not (self.should_end.is_set() or self.should_reopen.is_set()):
                    for _ in range(20):
                        file.write(b"%d %s\n" % (self.count, b"x" * (self.count % 90)))
                        self.count += 1
                    self.should_end.wait(0.002)


def rotate(directory: Path, mode: str) -> None:
    config = directory / "logrotate.conf"
    config.write_text(
        f"{directory}/app.log {{\n  {mode}\n  rotate 1000\n  missingok\n  nocompress\n  su root root\n}}\n"
    )
    config.chmod(0o644)
    subprocess.run(
        ["/usr/sbin/logrotate", "--force", "--state", directory / "state", config], check=True
    )


@pytest.mark.parametrize("mode", ["create", "copytruncate"])
def test_rotation_under_load_with_fifty_kills(mode: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with Tail(tmp_path) as tail:
        tail.path.touch()
        wait_for(lambda: "ready" in tail.errors.read_text())
        writer = Writer(tail.path)
        writer.start()
        try:
            # A truncation before anything was stored leaves no trace, so none is reported.
            wait_for(tail.lines, tail.errors.read_text)
            for number in range(KILLS):
                tail.restart()
                if number % (KILLS // ROTATIONS) == 0:
                    rotate(tmp_path, mode)
                    writer.should_reopen.set()
                if number % 4 == 3:  # the others die while they start, or soon after
                    stored = len(tail.lines())
                    wait_for(lambda n=stored: len(tail.lines()) > n, tail.errors.read_text)
        finally:
            writer.should_end.set()
            writer.join()
        last = b"%d " % (writer.count - 1)
        wait_for(lambda: any(line.startswith(last) for line in tail.lines()), tail.errors.read_text)
        lines = tail.lines()
        numbers = [int(line.split()[0]) for line in lines]
        assert all(
            line == b"%d %s" % (n, b"x" * (n % 90)) for n, line in zip(numbers, lines, strict=True)
        )
        log = tail.errors.read_text()
        if mode == "create":
            assert numbers == list(range(writer.count)), log
            assert "may be lost" not in log
        else:
            assert numbers == sorted(set(numbers)), log
            gaps = sum(1 for a, b in itertools.pairwise(numbers) if b != a + 1)
            # One truncation may be seen by several daemons, if the first are killed before they store anything.
            reported = set(re.findall(r"inode \d+ .* behind byte \d+ may be lost", log))
            assert gaps <= len(reported) <= ROTATIONS + 1, log
