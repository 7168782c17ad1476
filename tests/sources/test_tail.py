"""Following files: every way a file can change, with the real daemon."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemons import wait_for
from tests.sources.tails import Tail


@pytest.fixture
def tail(tmp_path: Path) -> Iterator[Tail]:
    tail = Tail(tmp_path)
    yield tail
    if tail.process is not None:
        tail.kill()


def test_lines_are_stored_verbatim_and_half_lines_wait(tail: Tail) -> None:
    tail.path.write_bytes(b"a\n\xff\x00\r\n\nhal")
    tail.start()
    tail.expect(b"a", b"\xff\x00", b"")
    tail.append(b"f", b"next")
    tail.expect(b"a", b"\xff\x00", b"", b"half", b"next")


def test_a_file_and_a_directory_that_do_not_exist_yet(tmp_path: Path) -> None:
    path = tmp_path / "not" / "yet" / "app.log"
    with Tail(tmp_path, "--file", path) as tail:
        tail.logged("ready")
        path.parent.mkdir(parents=True)
        tail.append(b"x", path=path)
        tail.expect(b"x")


def test_a_renamed_file_is_read_to_its_end_before_the_new_one(tail: Tail) -> None:
    with tail:
        tail.append(b"1")
        tail.expect(b"1")
        with tail.path.open("ab") as old:
            tail.path.rename(tail.directory / "app.log.1")
            tail.path.touch()
            old.write(b"2\n")  # the writer has not reopened its file yet
            old.flush()
            tail.expect(b"1", b"2")
            tail.append(b"3")
            tail.expect(b"1", b"2", b"3")


def test_the_half_line_at_the_end_of_a_rotated_file_is_an_entry(tail: Tail) -> None:
    with tail:
        tail.path.write_bytes(b"whole\nhalf")
        tail.expect(b"whole")
        tail.path.rename(tail.directory / "app.log.1")
        tail.append(b"new")
        tail.expect(b"whole", b"half", b"new")


def test_rotations_while_the_daemon_is_not_running(tail: Tail) -> None:
    tail.append(b"1")
    with tail:
        tail.expect(b"1")
    tail.append(b"2")
    tail.path.rename(tail.directory / "app.log.2")
    tail.append(b"3")
    tail.path.rename(tail.directory / "app.log.1")
    tail.append(b"4")
    with tail:
        tail.expect(b"1", b"2", b"3", b"4")
    with tail:
        tail.append(b"5")
        tail.expect(b"1", b"2", b"3", b"4", b"5")


def test_each_line_once_across_kills(tail: Tail) -> None:
    expected = []
    for number in range(8):
        lines = [b"%d-%d" % (number, line) for line in range(3000)]
        expected += lines
        tail.append(*lines)
        tail.start()
        if number % 2:
            tail.logged("ready")
        tail.kill()
    with tail:
        tail.expect(*expected)


def test_a_truncated_file_is_read_anew_and_the_possible_loss_is_counted(tail: Tail) -> None:
    with tail:
        tail.append(b"1", b"2")
        tail.expect(b"1", b"2")
        tail.path.write_bytes(b"3\n")
        tail.expect(b"1", b"2", b"3")
        tail.logged("was truncated")
        tail.kill(signal.SIGTERM)
        tail.logged("1 lost")


def test_what_was_truncated_while_the_daemon_was_dead_is_read_from_the_copy(tail: Tail) -> None:
    tail.append(b"1")
    with tail:
        tail.expect(b"1")
    tail.append(b"2")
    (tail.directory / "app.log.1").write_bytes(tail.path.read_bytes())
    os.truncate(tail.path, 0)
    tail.append(b"3", b"longer than before")
    with tail:
        tail.expect(b"1", b"2", b"3", b"longer than before")


def test_an_inode_that_is_used_again_is_another_file(tail: Tail) -> None:
    tail.append(b"old")
    with tail:
        tail.expect(b"old")
    tail.path.write_bytes(
        b"new content\n"
    )  # the same inode, as if it had been freed and used again
    with tail:
        tail.expect(b"old", b"new content")


def test_a_symlink_that_changes_its_target(tail: Tail) -> None:
    other = tail.directory / "elsewhere"
    other.mkdir()
    tail.append(b"a", path=other / "a")
    tail.append(b"b", path=other / "b")
    tail.path.symlink_to(other / "a")
    with tail:
        tail.expect(b"a")
        (tail.directory / "link").symlink_to(other / "b")
        (tail.directory / "link").rename(tail.path)
        tail.expect(b"a", b"b")
        (other / "b").rename(other / "b.1")
        tail.append(b"c", path=other / "b")
        tail.expect(b"a", b"b", b"c")


def test_a_glob_does_not_read_a_rotated_file_twice(tmp_path: Path) -> None:
    with Tail(tmp_path, "--file", tmp_path / "app*") as tail:
        expected = []
        for number in range(7):
            line = b"line %d" % number
            tail.append(line)
            expected.append(line)
            tail.expect(*expected)
            for old in sorted(tmp_path.glob("app.log.*"), reverse=True):
                old.rename(tmp_path / f"app.log.{int(old.suffix[1:]) + 1}")
            tail.path.rename(tmp_path / "app.log.1")
            if number == 3:
                tail.restart()
        tail.append(b"other", path=tmp_path / "app-2.log")
        tail.expect(*expected, b"other")


def test_a_file_whose_name_is_a_glob_is_followed_as_are_those_it_names(tmp_path: Path) -> None:
    path = tmp_path / "of[1]" / "app[2].log"
    with Tail(tmp_path, "--file", path) as tail:
        tail.logged("ready")
        path.parent.mkdir()
        tail.append(b"1", path=path)
        tail.expect(b"1")
        path.rename(path.with_name("app[2].log.1"))
        tail.restart()
        tail.append(b"2", path=path)
        tail.expect(b"1", b"2")
        (tmp_path / "of1").mkdir()
        tail.append(b"3", path=tmp_path / "of1" / "app2.log")
        tail.expect(b"1", b"2", b"3")


def test_from_end_holds_for_what_is_there_at_the_first_start(tail: Tail) -> None:
    tail.options = (*tail.options, "--from", "end")
    tail.append(b"before")
    tail.start()
    tail.logged("ready")
    tail.kill()
    tail.append(b"meanwhile")
    with tail:
        tail.expect(b"meanwhile")
        tail.path.rename(tail.directory / "app.log.1")
        tail.append(b"new file")
        tail.expect(b"meanwhile", b"new file")


def test_sighup_looks_at_everything_again(tail: Tail) -> None:
    with tail:
        tail.append(b"1")
        tail.expect(b"1")
        assert tail.process is not None
        tail.process.send_signal(signal.SIGHUP)
        tail.append(b"2")
        tail.expect(b"1", b"2")


def test_a_line_that_is_too_long_is_refused_once(tail: Tail) -> None:
    tail.path.write_bytes(b"a\n" + b"x" * (3 << 20) + b"\nb\n")
    with tail:
        tail.expect(b"a", b"b")
        tail.restart()
        tail.append(b"c")
        tail.expect(b"a", b"b", b"c")
    assert tail.errors.read_text().count("3145728") == 1


def test_many_files_and_a_large_one(tmp_path: Path) -> None:
    large = [b"large %d" % number for number in range(200_000)]
    tail = Tail(tmp_path, "--file", tmp_path / "*.log")
    tail.append(*large, path=tmp_path / "a.log")
    for number in range(30):
        tail.append(b"small %d" % number, path=tmp_path / f"b{number}.log")
    with tail:
        wait_for(lambda: len(tail.lines()) == len(large) + 30)
        lines = tail.lines()
        assert [line for line in lines if line.startswith(b"large")] == large
        assert {b"small %d" % number for number in range(30)} < set(lines)


def test_what_was_rotated_after_the_last_file_that_was_read_is_gone(tail: Tail) -> None:
    tail.append(b"1")
    with tail:
        tail.expect(b"1")
    tail.append(b"2")
    tail.path.unlink()  # as if it had been rotated and compressed
    tail.append(b"3")
    tail.path.rename(tail.directory / "app.log.1")
    tail.append(b"4")
    with tail:
        tail.expect(b"1", b"3", b"4")
        tail.restart()
        tail.append(b"5")
        tail.expect(b"1", b"3", b"4", b"5")
    assert "may be lost" in tail.errors.read_text()
