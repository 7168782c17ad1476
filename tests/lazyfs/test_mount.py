"""The mount as programs use it, and what is left of their work after a power loss."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import threading
from pathlib import Path

import pytest

from lazyfs import mount as mounting
from tests.lazyfs.conftest import MountFactory

PAGE = 4096
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE = 1, 2, 8, 16
libc = ctypes.CDLL(None, use_errno=True)


def fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    """The errno of the system call, or 0."""
    done = libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(length))
    return 0 if done == 0 else ctypes.get_errno()


def renameat2(old: Path, new: Path, flags: int) -> int:
    """The errno of the system call, or 0."""
    done = libc.renameat2(-100, bytes(old), -100, bytes(new), flags)
    return 0 if done == 0 else ctypes.get_errno()


def sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def aligned(byte: bytes, pages: int = 1) -> mmap.mmap:
    buffer = mmap.mmap(-1, pages * PAGE)
    buffer[:] = byte * (pages * PAGE)
    return buffer


def test_this_machine_can_mount() -> None:
    assert mounting.missing_requirement() is None


def test_root_holds_exactly_what_is_synced(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    file = disk.path / "a"
    file.write_bytes(b"content")
    assert list(disk.root.iterdir()) == []
    fd = os.open(file, os.O_RDONLY)
    os.fdatasync(fd)
    assert list(disk.root.iterdir()) == []
    sync_directory(disk.path)
    assert (disk.root / "a").read_bytes() == b"content"
    file.write_bytes(b"other")
    assert (disk.root / "a").read_bytes() == b"content"
    os.close(fd)
    disk.kill()
    assert (disk.root / "a").read_bytes() == b"content"


def test_synced_content_is_there_after_a_cut_and_a_new_mount(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    fd = os.open(disk.path / "a", os.O_RDWR | os.O_CREAT | os.O_DIRECT)
    os.pwrite(fd, aligned(b"1"), 0)
    os.fdatasync(fd)
    sync_directory(disk.path)
    os.pwrite(fd, aligned(b"2"), 0)
    os.pwrite(fd, aligned(b"3"), PAGE)
    assert os.pread(fd, 1, PAGE) == b"3"
    os.close(fd)
    lost = disk.power_loss()
    assert (lost["bytes_pending"], lost["data_ops_lost"]) == (2 * PAGE, 2)
    assert (disk.path / "a").read_bytes() == b"1" * PAGE
    disk.unmount()
    assert (disk.root / "a").read_bytes() == b"1" * PAGE


@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC])
def test_synchronous_writes_need_no_sync(mount: MountFactory, flag: int) -> None:
    disk = mount("--profile", "lazyfs")
    fd = os.open(disk.path / "a", os.O_WRONLY | os.O_CREAT | flag)
    os.write(fd, b"kept")
    os.close(fd)
    fd = os.open(disk.path / "b", os.O_WRONLY | os.O_CREAT)
    os.pwritev(fd, [b"kept too"], 0, os.RWF_DSYNC)
    os.pwritev(fd, [b"lost"], 100)
    os.close(fd)
    disk.power_loss()
    assert (disk.path / "a").read_bytes() == b"kept"
    assert (disk.path / "b").read_bytes() == b"kept too"


def test_descriptors_from_before_the_cut_are_dead(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    with (disk.path / "a").open("wb", buffering=0) as file:
        file.write(b"x")
        disk.power_loss()
        for use in (lambda: file.write(b"y"), lambda: os.fsync(file.fileno())):
            with pytest.raises(OSError, match=r"Input/output|Stale"):
                use()
    assert list(disk.path.iterdir()) == []


def test_mapped_memory_reaches_the_disk_by_msync(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    fd = os.open(disk.path / "a", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 2 * PAGE)
    os.fsync(fd)
    sync_directory(disk.path)
    with mmap.mmap(fd, 2 * PAGE) as mapped:
        mapped[:5] = b"first"
        mapped.flush()
        assert os.pread(fd, 5, 0) == b"first"
        mapped[PAGE : PAGE + 6] = b"second"
        disk.power_loss()
    os.close(fd)
    assert (disk.path / "a").read_bytes() == b"first".ljust(2 * PAGE, b"\0")


def test_unlinked_file_lives_until_it_is_closed(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    file = disk.path / "a"
    fd = os.open(file, os.O_RDWR | os.O_CREAT)
    os.write(fd, b"here")
    os.fsync(fd)
    sync_directory(disk.path)
    file.unlink()
    sync_directory(disk.path)
    assert (os.fstat(fd).st_nlink, os.fstat(fd).st_size) == (0, 4)
    os.pwrite(fd, b"t", 0)
    os.fsync(fd)
    assert os.pread(fd, 4, 0) == b"tere"
    os.close(fd)
    assert list(disk.root.iterdir()) == []


def test_rename_over_an_open_file_is_one_operation(mount: MountFactory) -> None:
    disk = mount("--profile", "random")
    (disk.path / "old").write_bytes(b"old")
    (disk.path / "new").write_bytes(b"new")
    disk.command("checkpoint")
    with (disk.path / "old").open("rb") as reader:
        (disk.path / "new").rename(disk.path / "old")
        assert reader.read() == b"old"
        report = disk.command("report")
        assert report["names"] == [{"op": "rename", "path": "new", "to": "old"}]
    for seed in range(20):
        disk.power_loss(seed)
        assert (disk.path / "old").read_bytes() in (b"old", b"new")


def test_rename_noreplace_and_exchange(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    a, b, c = (disk.path / name for name in "abc")
    a.write_bytes(b"a")
    b.write_bytes(b"b")
    assert renameat2(a, b, RENAME_NOREPLACE) == errno.EEXIST
    assert renameat2(a, c, RENAME_NOREPLACE) == 0
    assert renameat2(c, b, RENAME_EXCHANGE) == 0
    assert (b.read_bytes(), c.read_bytes()) == (b"a", b"b")
    assert renameat2(c, disk.path / "none", RENAME_EXCHANGE) == errno.ENOENT
    disk.command("checkpoint")
    assert renameat2(c, b, RENAME_EXCHANGE) == 0
    sync_directory(disk.path)
    assert ((disk.root / "b").read_bytes(), (disk.root / "c").read_bytes()) == (b"b", b"a")


def test_rename_without_directory_sync_is_lost_under_posix_strict(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    (disk.path / "d").mkdir()
    (disk.path / "a").write_bytes(b"a")
    disk.command("checkpoint")
    (disk.path / "a").rename(disk.path / "d" / "b")
    disk.power_loss()
    assert (disk.path / "a").read_bytes() == b"a"
    assert list((disk.path / "d").iterdir()) == []
    (disk.path / "a").rename(disk.path / "d" / "b")
    sync_directory(disk.path / "d")
    disk.power_loss()
    assert (disk.path / "d" / "b").read_bytes() == b"a"
    assert not (disk.path / "a").exists()


def test_synced_file_in_a_directory_that_was_not_synced(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    (disk.path / "d").mkdir()
    with (disk.path / "d" / "a").open("wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
    sync_directory(disk.path / "d")
    assert list(disk.root.iterdir()) == []
    sync_directory(disk.path)
    assert (disk.root / "d" / "a").read_bytes() == b"x"


def test_fallocate_modes(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    fd = os.open(disk.path / "a", os.O_RDWR | os.O_CREAT)
    assert fallocate(fd, 0, 0, 3 * PAGE) == 0
    assert os.fstat(fd).st_size == 3 * PAGE
    os.pwrite(fd, b"x" * 3 * PAGE, 0)
    assert fallocate(fd, KEEP_SIZE, 0, 10 * PAGE) == 0
    assert fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 10, PAGE) == 0
    assert fallocate(fd, ZERO_RANGE, 3 * PAGE - 1, 2) == 0
    expected = b"x" * 10 + bytes(PAGE) + b"x" * (2 * PAGE - 11) + bytes(2)
    assert os.pread(fd, 4 * PAGE, 0) == expected
    assert fallocate(fd, COLLAPSE_RANGE, 0, PAGE) == errno.EOPNOTSUPP
    os.fsync(fd)
    sync_directory(disk.path)
    assert (disk.root / "a").read_bytes() == expected
    os.close(fd)


def test_tmpfile_is_refused_cleanly(mount: MountFactory) -> None:
    disk = mount()
    with pytest.raises(OSError, match="not supported"):
        os.open(disk.path, os.O_TMPFILE | os.O_RDWR)


def test_links_and_attributes_survive_a_new_mount(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    a = disk.path / "a"
    a.write_bytes(b"x")
    os.link(a, disk.path / "b")
    (disk.path / "s").symlink_to("a")
    a.chmod(0o640)
    os.utime(a, ns=(1, 2_000_000_003))
    os.setxattr(a, "user.note", b"\0value")
    assert os.listxattr(a) == ["user.note"]
    with pytest.raises(OSError, match="No data"):
        os.getxattr(a, "user.none")
    disk.command("checkpoint")
    disk.unmount()
    again = mount("--profile", "posix-strict")
    info = (again.path / "b").stat()
    assert (info.st_nlink, info.st_mode, info.st_mtime_ns) == (2, 0o100640, 2_000_000_003)
    assert (again.path / "s").readlink() == Path("a")
    assert os.getxattr(again.path / "b", "user.note") == b"\0value"


def test_locks(mount: MountFactory) -> None:
    disk = mount()
    one = (disk.path / "a").open("wb")
    two = (disk.path / "a").open("wb")
    fcntl.flock(one, fcntl.LOCK_EX)
    with pytest.raises(BlockingIOError):
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(one, fcntl.LOCK_UN)
    fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
    one.close()
    two.close()


def test_many_threads(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")

    def work(number: int) -> None:
        fd = os.open(disk.path / f"f{number}", os.O_RDWR | os.O_CREAT)
        for index in range(50):
            os.pwrite(fd, f"{number}:{index:4};".encode(), index * 7)
            os.fdatasync(fd)
        os.close(fd)
        sync_directory(disk.path)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    disk.power_loss()
    for number in range(8):
        expected = "".join(f"{number}:{index:4};" for index in range(50))
        assert (disk.path / f"f{number}").read_text() == expected


def test_large_directory_is_listed_whole(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    names = {f"name-{index:05}-{'x' * 50}" for index in range(1500)}
    for name in names:
        (disk.path / name).touch()
    assert {entry.name for entry in disk.path.iterdir()} == names
    disk.power_loss()
    assert list(disk.path.iterdir()) == []


def test_power_loss_under_load(mount: MountFactory) -> None:
    disk = mount("--profile", "random")
    acknowledged = [0] * 4
    stop = threading.Event()

    def work(number: int) -> None:
        path = disk.path / f"f{number}"
        while not stop.is_set():
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT)
            except OSError:
                continue
            try:
                sync_directory(disk.path)
                while not stop.is_set():
                    value = acknowledged[number] + 1
                    os.pwrite(fd, value.to_bytes(8, "little"), value * 8)
                    os.fdatasync(fd)
                    acknowledged[number] = value
            except OSError:
                pass  # the power was cut: open it again
            finally:
                os.close(fd)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for seed in range(20):
        before = sum(acknowledged)
        while sum(acknowledged) < before + 20 and any(thread.is_alive() for thread in threads):
            stop.wait(0.001)
        disk.power_loss(seed)
    stop.set()
    for thread in threads:
        thread.join()
    for number in range(4):
        content = (disk.path / f"f{number}").read_bytes()
        for value in range(1, acknowledged[number] + 1):
            assert content[value * 8 : value * 8 + 8] == value.to_bytes(8, "little")
