"""Random lives of a followed file: written, rotated, truncated, replaced, while the daemon is killed and started.

Each line must be stored exactly once, those of one file in their order. Only what a truncation may cost is allowed to
be missing, and then something must have been counted as lost.

    KIFA_LIVES=1 KIFA_LIVES_SEED=4711 python -m pytest tests/sources/test_many_lives.py   one life again
    KIFA_LIVES=100000 KIFA_LIVES_SECONDS=7200 python -m pytest tests/sources/test_many_lives.py   two hours (ci/nightly)
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.daemons import wait_for
from tests.fuzzing import count_of_lives, how_to_repeat, seeds_of_lives
from tests.sources.tails import Tail

LIVES = count_of_lives(6)
STEPS = 30
KEPT_FILES = 6


def ids_of(lines: Iterable[bytes]) -> list[int]:
    return sorted(int(line.split()[0]) for line in lines)


class World:
    """A writer of unique lines, something that rotates, and a daemon that is not always there."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.tail = Tail(directory)
        self.path = self.tail.path
        self.is_running = False
        self.written: list[tuple[bytes, int]] = []
        """Each line, and the serial number of the file it was written to."""
        self.may_be_lost: set[bytes] = set()
        self.unknown_ends = 0
        """How often something ended of which the daemon cannot know whether it has all."""
        self.file_serial = 0
        self.earlier_lives = 0  # bytes of log
        self.steps: list[str] = []

    def line(self) -> bytes:
        number = len(self.written)
        size = self.random.choice((0, 1, 20, 200, 200, 3000, 70_000))
        return b"%d %d " % (number, size) + self.random.randbytes(1).hex().encode() * size

    def write(self, path: Path, serial: int, *, most: int = 40) -> list[bytes]:
        lines = []
        with path.open("ab", buffering=0) as file:
            for _ in range(self.random.randint(1, most)):
                line = self.line()
                self.written.append((line, serial))
                lines.append(line)
                data = line + b"\n"
                cut = self.random.randint(0, len(data))
                file.write(data[:cut])  # a half line, for a moment
                file.write(data[cut:])
        return lines

    def append(self) -> None:
        self.write(self.path, self.file_serial)

    def shift(self) -> None:
        names = [self.path.with_name(f"app.log.{n}") for n in range(1, KEPT_FILES + 1)]
        if names[-1].exists() and not self.is_running:
            return
        if names[-1].exists():
            self.catch_up()
            names[-1].unlink()
            self.unknown_ends += 1
        for older, newer in zip(names[:0:-1], names[-2::-1], strict=True):
            if newer.exists():
                newer.rename(older)

    def can_shift(self) -> bool:
        return self.is_running or not self.path.with_name(f"app.log.{KEPT_FILES}").exists()

    def rename(self) -> None:
        if not self.path.exists() or not self.can_shift():
            return
        self.shift()
        old = self.path.with_name("app.log.1")
        self.path.rename(old)
        if self.random.random() < 0.3 and self.is_running:
            self.write(old, self.file_serial, most=3)  # its writer is late
        self.file_serial += 1
        if self.random.random() < 0.5:
            self.path.touch()

    def copy_and_truncate(self) -> None:
        if not self.path.exists() or not self.can_shift():
            return
        self.shift()
        mine = {line for line, serial in self.written if serial == self.file_serial}
        if not mine & set(self.tail.lines()):
            self.may_be_lost |= mine  # nothing is known by which its copy could be found
        shutil.copyfile(self.path, self.path.with_name("app.log.1"))
        if self.random.random() < 0.3:
            self.may_be_lost |= set(self.write(self.path, self.file_serial, most=3))
        os.truncate(self.path, 0)
        self.unknown_ends += 1
        self.file_serial += 1

    def replace_by_copy(self) -> None:
        if self.path.exists():
            draft = self.path.with_name("draft")
            shutil.copyfile(self.path, draft)
            draft.rename(self.path)
            self.unknown_ends += 1  # the daemon may die before it looks

    def start(self) -> None:
        if not self.is_running:
            self.earlier_lives = (
                len(self.tail.errors.read_bytes()) if self.tail.errors.exists() else 0
            )
            self.tail.start()
            self.is_running = True
            if self.random.random() < 0.5:
                self.await_ready()

    def is_ready(self) -> bool:
        return b"ready" in self.tail.errors.read_bytes()[self.earlier_lives :]

    def await_ready(self) -> None:
        wait_for(self.is_ready, self.explain)

    def end(self) -> None:
        if self.is_running:
            self.is_running = False
            if self.random.random() < 0.2:
                self.await_ready()
                self.tail.kill(signal.SIGTERM)
            else:
                self.tail.kill()

    def catch_up(self) -> None:
        if self.is_running:
            wanted = {line for line, _ in self.written} - self.may_be_lost
            wait_for(lambda: wanted <= set(self.tail.lines()), self.explain)

    def hang_up(self) -> None:
        # Before that the signal would end the process.
        if self.is_running and self.is_ready():
            assert self.tail.process is not None
            self.tail.process.send_signal(signal.SIGHUP)

    def explain(self) -> str:
        found = set(self.tail.lines())
        missing = [line for line, _ in self.written if line not in found | self.may_be_lost]
        files = [
            f"{path.name}: inode {path.stat().st_ino}, lines {ids_of(path.read_bytes().splitlines())}"
            for path in sorted(self.path.parent.glob("app.log*"))
        ]
        summary = f"missing: {ids_of(missing)}, may be: {ids_of(self.may_be_lost)}"
        return "\n".join((*self.steps, summary, *files, self.tail.errors.read_text()))

    def live(self) -> None:
        actions = {
            self.append: 8,
            self.rename: 3,
            self.copy_and_truncate: 2,
            self.replace_by_copy: 1,
            self.start: 4,
            self.end: 3,
            self.catch_up: 1,
            self.hang_up: 1,
        }
        self.path.touch()
        self.start()
        self.await_ready()
        for _ in range(STEPS):
            (action,) = self.random.choices([*actions], [*actions.values()])
            first = len(self.written)
            action()
            lines = f" {first}-{len(self.written) - 1}" if len(self.written) > first else ""
            self.steps.append(f"{action.__name__}{lines}{'' if self.is_running else ' (dead)'}")
        self.start()
        self.catch_up()
        self.check()
        # Also after it ended: nothing is read twice, or found later.
        self.end()
        self.start()
        self.append()
        self.catch_up()
        self.check()

    def check(self) -> None:
        found = self.tail.lines()
        assert len(found) == len(set(found)), self.explain()
        assert set(found) <= {line for line, _ in self.written}, self.explain()
        for serial in range(self.file_serial + 1):
            mine = {line for line, other in self.written if other == serial}
            in_order = [
                line for line, other in self.written if other == serial and line in set(found)
            ]
            assert [line for line in found if line in mine] == in_order, self.explain()
        if not self.unknown_ends:
            assert "may be lost" not in self.tail.errors.read_text(), self.explain()


@pytest.mark.timeout(max(120, 20 * LIVES))
def test_each_line_is_stored_exactly_once_whatever_happens(tmp_path: Path) -> None:
    for seed in seeds_of_lives(LIVES, first=0):
        directory = tmp_path / f"life-{seed}"
        directory.mkdir()
        world = World(directory, seed)
        try:
            world.live()
        except BaseException as error:
            error.add_note(how_to_repeat(seed, __file__))
            raise
        finally:
            if world.tail.process is not None:
                world.tail.kill()
        shutil.rmtree(directory)
