"""Which file is at a path: copies, links, directories and inodes that are used again."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.daemons import wait_for
from tests.sources.tails import Tail


def replace_by_copy(path: Path) -> None:
    """As ``sed -i`` and editors do."""
    copy = path.with_name("draft")
    shutil.copyfile(path, copy)
    copy.rename(path)


@pytest.mark.parametrize("is_running", [True, False])
def test_a_file_that_is_replaced_by_its_own_copy_goes_on_where_it_was(
    is_running: bool, tmp_path: Path
) -> None:
    with Tail(tmp_path) as tail:
        tail.append(b"1", b"2")
        tail.expect(b"1", b"2")
        if not is_running:
            tail.kill()
        replace_by_copy(tail.path)
        tail.append(b"3")
        if not is_running:
            tail.start()
        tail.expect(b"1", b"2", b"3")
        tail.append(b"4")
        tail.expect(b"1", b"2", b"3", b"4")
        tail.restart()
        tail.append(b"5")
        tail.expect(b"1", b"2", b"3", b"4", b"5")
        tail.kill(signal.SIGTERM)
        tail.logged("0 lost")


def test_a_new_file_that_begins_as_the_deleted_one_is_read_whole(tmp_path: Path) -> None:
    with Tail(tmp_path) as tail:
        tail.append(b"start")
        tail.expect(b"start")
        tail.path.unlink()
        tail.path.touch()
        tail.logged("from byte 0\n")
        wait_for(lambda: tail.errors.read_text().count("from byte 0\n") == 2)
        tail.append(b"start", b"next")
        tail.expect(b"start", b"start", b"next")


def test_a_directory_behind_a_symlink_that_changes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "logs").mkdir(parents=True)
    link = tmp_path / "current"
    link.symlink_to("one")
    path = link / "logs" / "app.log"
    with Tail(tmp_path, "--file", path) as tail:
        tail.append(b"a", path=path)
        tail.expect(b"a")
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").rename(link)
        tail.append(b"b", path=path)
        tail.expect(b"a", b"b")
        link.unlink()
        link.symlink_to("three")  # it is not there yet
        (tmp_path / "three" / "logs").mkdir(parents=True)
        tail.append(b"c", path=path)
        tail.expect(b"a", b"b", b"c")


def test_a_directory_above_that_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "app.log"
    path.parent.mkdir(parents=True)
    with Tail(tmp_path, "--file", path) as tail:
        tail.append(b"1", path=path)
        tail.expect(b"1")
        (tmp_path / "a").rename(tmp_path / "a.old")
        path.parent.mkdir(parents=True)
        tail.append(b"2", path=path)
        tail.expect(b"1", b"2")


def reuse_inode(old: Path, new: Path, content: bytes) -> None:
    """Give ``new`` the inode of ``old``, as if it had been freed and used again."""
    old.rename(new)
    new.write_bytes(content)


def test_an_empty_file_whose_inode_is_used_for_another_name(tmp_path: Path) -> None:
    with Tail(tmp_path) as tail:
        tail.append(b"1")
        tail.expect(b"1")
        tail.path.rename(tmp_path / "app.log.1")
        tail.path.touch()
        wait_for(lambda: tail.errors.read_text().count("from byte 0\n") == 2)
        tail.append(b"2", path=tmp_path / "app.log.1")  # the checkpoint names the empty file now
        tail.expect(b"1", b"2")
        tail.kill()
        reuse_inode(tail.path, tmp_path / "unrelated", b"not ours\n")
        tail.append(b"3")
        tail.start()
        tail.expect(b"1", b"2", b"3")


def test_an_empty_file_of_a_glob_whose_inode_is_used_again_is_read(tmp_path: Path) -> None:
    with Tail(tmp_path, "--file", tmp_path / "app*") as tail:
        empty = tmp_path / "app.log.empty"
        tail.path.touch()
        tail.logged("from byte 0\n")
        tail.path.rename(empty)
        expected = []
        for number in range(6):  # until the empty one is closed
            line = b"line %d" % number
            tail.append(line)
            expected.append(line)
            tail.expect(*expected)
            tail.path.rename(tmp_path / f"app.log.{number}")
        reuse_inode(empty, tmp_path / "app-other.log", b"another file\n")
        tail.expect(*expected, b"another file")


def test_a_pipe_or_a_directory_at_the_path_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "app.log")
    with Tail(tmp_path) as tail:
        tail.logged("no regular file")
        tail.path.unlink()
        tail.path.mkdir()
        tail.logged("ready")
        tail.path.rmdir()
        tail.append(b"a file")
        tail.expect(b"a file")


def test_a_copy_that_takes_the_place_and_is_rotated_before_it_is_seen(tmp_path: Path) -> None:
    with Tail(tmp_path) as tail:
        tail.append(b"1")
        tail.expect(b"1")
        assert tail.process is not None
        tail.process.send_signal(signal.SIGSTOP)
        replace_by_copy(tail.path)
        tail.append(b"2")
        tail.path.rename(tmp_path / "app.log.1")
        tail.append(b"3")
        tail.process.send_signal(signal.SIGCONT)
        tail.expect(b"1", b"2", b"3")


def test_a_copy_with_the_inode_of_an_empty_file_is_read_once_and_as_a_copy(tmp_path: Path) -> None:
    with Tail(tmp_path) as tail:
        tail.path.touch()
        tail.logged("ready")
        copy = tmp_path / "app.log.1"
        tail.path.rename(copy)
        tail.append(b"1")
        tail.expect(b"1")
        tail.kill()
        tail.append(b"2")
        shutil.copyfile(tail.path, copy)  # as if the empty one were gone and its inode used again
        os.truncate(tail.path, 0)
        tail.append(b"3")
        tail.start()
        tail.expect(b"1", b"2", b"3")
        tail.append(b"4")
        tail.expect(b"1", b"2", b"3", b"4")


def test_what_was_rotated_before_an_inode_was_used_again_is_read(tmp_path: Path) -> None:
    with Tail(tmp_path) as tail:
        tail.path.touch()
        tail.logged("ready")
    first = tmp_path / "first"
    tail.path.rename(first)
    tail.append(b"1", path=tmp_path / "app.log.1")
    first.rename(tail.path)  # as if it had been freed and used again
    tail.append(b"2")
    with tail:
        tail.expect(b"1", b"2")
