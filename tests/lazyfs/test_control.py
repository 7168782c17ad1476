"""The commands of the control socket."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lazyfs.errors import CommandError
from lazyfs.inode import Directory, paths_of
from lazyfs.model import Disk
from lazyfs.profiles import get_profile
from lazyfs.trace import replay
from tests.lazyfs.conftest import Mounted, MountFactory

libc = ctypes.CDLL(None, use_errno=True)

WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for index in range(10):
    os.pwrite(fd, b"x", index)
    os.fdatasync(fd)
"""


def write_error(path: Path, data: bytes = b"new") -> int:
    """Overwrite the start of a file and sync it. Returns the errno, or 0."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    # Not os.pwrite, which tries again after EINTR.
    ok = libc.pwrite(fd, data, len(data), ctypes.c_long(0)) >= 0 and libc.fsync(fd) == 0
    code = 0 if ok else ctypes.get_errno()
    os.close(fd)
    return code


def filled(disk: Mounted, name: str = "a", data: bytes = b"old") -> Path:
    path = disk.path / name
    path.write_bytes(data)
    disk.command("checkpoint")
    return path


def test_report_names_what_is_not_synced(mount: MountFactory) -> None:
    disk = mount("--profile", "posix-strict")
    path = filled(disk)
    assert disk.command("report")["unsynced_bytes"] == 0
    with path.open("r+b") as file:
        file.write(b"12345")
        file.flush()
        (disk.path / "b").touch()
        report = disk.command("report")
    assert report["files"] == [
        {"path": "a", "unsynced_bytes": 5, "operations": 1, "size": 5, "synced_size": 3}
    ]
    assert report["names"] == [{"op": "create", "path": "b"}]


@pytest.mark.parametrize("name", ["EIO", "ENOSPC", "EINTR", "EROFS"])
def test_nth_operation_fails_once(mount: MountFactory, name: str) -> None:
    disk = mount()
    path = filled(disk)
    disk.command("fail", op="write", path="a", nth=2, errno=name)
    assert write_error(path) == 0
    assert write_error(path) == getattr(errno, name)
    assert write_error(path) == 0
    assert disk.command("rules")["rules"] == []


def test_failing_from_then_on_until_cleared(mount: MountFactory) -> None:
    disk = mount()
    path = filled(disk)
    disk.command("fail", op="f*sync", path="*", forever=True)
    assert [write_error(path) for _ in range(2)] == [errno.EIO] * 2
    assert disk.command("clear", kind="fail") == {"removed": 1}
    assert write_error(path) == 0


@pytest.mark.parametrize(
    ("aftermath", "seen", "after_next_sync"),
    [("kept", b"new", b"new"), ("dropped", b"new", b"old"), ("reverted", b"old", b"old")],
)
def test_aftermath_of_a_failed_sync(
    mount: MountFactory, aftermath: str, seen: bytes, after_next_sync: bytes
) -> None:
    disk = mount("--profile", "posix-strict")
    path = filled(disk)
    disk.command("fail", op="fsync", path="a", aftermath=aftermath)
    assert write_error(path) == errno.EIO
    assert path.read_bytes() == seen
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
    disk.power_loss()
    assert path.read_bytes() == after_next_sync


def test_quota_is_exact_to_the_byte(mount: MountFactory) -> None:
    disk = mount()
    filled(disk, "a", b"x" * 1000)
    disk.command("quota", bytes=1500)
    space = os.statvfs(disk.path)
    assert (space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize) == (1500, 500)
    fd = os.open(disk.path / "b", os.O_RDWR | os.O_CREAT)
    assert os.write(fd, b"y" * 501) == 500
    assert os.statvfs(disk.path).f_bavail == 0
    with pytest.raises(OSError, match="No space"):
        os.write(fd, b"y")
    with pytest.raises(OSError, match="No space"):
        os.posix_fallocate(fd, 0, 501)
    os.pwrite(fd, b"z", 0)
    (disk.path / "a").unlink()
    assert os.write(fd, b"y" * 1000) == 1000
    disk.command("quota", bytes=None)
    assert os.write(fd, b"y") == 1
    os.close(fd)


def test_damage_is_done_and_registered(mount: MountFactory) -> None:
    disk = mount()
    path = filled(disk, "a", b"0123456789" + bytes(10))
    disk.command("corrupt", path="a", kind="flip", offset=1, length=2, mask=1)
    assert path.read_bytes()[:4] == b"0033"
    disk.command("corrupt", path="a", kind="zero", offset=4, length=2)
    disk.command("corrupt", path="a", kind="zero", offset=15, length=2)
    disk.command("corrupt", path="/a", kind="swap", offset=6, other_offset=8, length=2)
    assert path.read_bytes()[:10] == b"0033\0\x008967"
    register = disk.command("corruptions")["corruptions"]
    assert isinstance(register, list)
    assert [(item["kind"], item["changed"]) for item in register] == [
        ("flip", True), ("zero", True), ("zero", False), ("swap", True),
    ]  # fmt: skip
    with pytest.raises(CommandError, match="not within"):
        disk.command("corrupt", path="a", kind="flip", offset=20)
    assert len(disk.command("corruptions")["corruptions"]) == 4  # type: ignore[arg-type]


def test_misdirected_write(mount: MountFactory) -> None:
    disk = mount()
    path = filled(disk, "a", b"." * 10)
    disk.command("corrupt", path="a", kind="misdirect", distance=5)
    assert write_error(path, b"xx") == 0
    assert path.read_bytes() == b".....xx..."
    assert write_error(path, b"yy") == 0
    assert path.read_bytes() == b"yy...xx..."


@pytest.mark.parametrize(("when", "left"), [("before", 3), ("after", 4)])
def test_kill_at_the_kth_request(mount: MountFactory, when: str, left: int) -> None:
    disk = mount("--profile", "lazyfs")
    disk.command("kill", op="fdatasync", path="a", nth=4, when=when, power_loss=True)
    writer = subprocess.run([sys.executable, "-c", WRITER, str(disk.path / "a")], timeout=20)
    assert writer.returncode == -signal.SIGKILL
    assert (disk.path / "a").read_bytes() == b"x" * left


def test_kill_of_another_process(mount: MountFactory) -> None:
    disk = mount()
    victim = subprocess.Popen(["sleep", "60"])
    disk.command("kill", op="create", path="trigger", pid=victim.pid, when="after")
    (disk.path / "trigger").touch()
    assert victim.wait(10) == -signal.SIGKILL


def test_slow_operations_do_not_stop_the_control(mount: MountFactory) -> None:
    disk = mount()
    path = filled(disk)
    disk.command("slow", op="fsync", path="a", delay_ms=60_000)
    writer = subprocess.Popen([sys.executable, "-c", WRITER.replace("fdata", "f"), str(path)])
    matched = 0
    while not matched:
        rules = disk.command("rules")["rules"]
        assert isinstance(rules, list)
        matched = rules[0]["matches"]
    assert writer.poll() is None
    disk.command("clear")
    writer.kill()
    writer.wait(10)


def test_trace_replays_to_the_same_disk(mount: MountFactory, tmp_path: Path) -> None:
    disk = mount("--profile", "random", "--seed", "5")
    trace = tmp_path / "trace"
    disk.command("record", file=str(trace))
    (disk.path / "d").mkdir()
    for index in range(4):
        with (disk.path / "d" / f"f{index}").open("wb") as file:
            file.write(bytes([index]) * 5000)
            file.flush()
            os.fsync(file.fileno())
            file.write(b"more")
    (disk.path / "d" / "f1").rename(disk.path / "f1")
    os.truncate(disk.path / "f1", 10)
    (disk.path / "d" / "f2").unlink()
    lost = disk.power_loss()
    assert lost["seed"] == 5
    (disk.path / "after").write_bytes(b"x")
    disk.command("checkpoint")
    disk.command("record", file=None)
    copy = Disk(get_profile("random"))
    with trace.open() as lines:
        assert replay(lines, copy) > 10
    found = {
        path: copy.read(inode, 0, inode.size)
        for inode in copy.inodes.values()
        if inode.is_file
        for path in paths_of(inode)
    }
    assert found == {
        str(file.relative_to(disk.path)): file.read_bytes()
        for file in disk.path.rglob("*")
        if file.is_file()
    }


@pytest.mark.parametrize(
    ("message", "part"),
    [
        ("{", "not JSON"),
        ("[]", "a command is a JSON object"),
        ('{"cmd": "explode"}', "unknown command 'explode'"),
        ('{"cmd": "power-loss", "sead": 1}', "unknown argument 'sead'"),
        ('{"cmd": "power-loss", "seed": "1"}', "wrong type"),
        ('{"cmd": "quota", "bytes": true}', "wrong type"),
        ('{"cmd": "quota", "bytes": -1}', "from 0"),
        ('{"cmd": "quota"}', "'bytes' is missing"),
        ('{"cmd": "fail", "op": "wriet"}', "unknown operation 'wriet'"),
        ('{"cmd": "fail", "op": "write", "errno": "EWHAT"}', "unknown errno"),
        ('{"cmd": "fail", "op": "write", "nth": 0}', "from 1"),
        ('{"cmd": "fail", "op": "fsync", "aftermath": "x"}', "kept, dropped, reverted"),
        ('{"cmd": "kill", "when": "later"}', "before or after"),
        ('{"cmd": "slow", "delay_ms": -1}', "milliseconds"),
        ('{"cmd": "corrupt", "path": "none", "kind": "flip"}', "No such file"),
        ('{"cmd": "profile", "name": "x"}', "unknown profile"),
        ('{"cmd": "record", "file": "/none/x"}', "No such file"),
    ],
)
def test_malformed_command_changes_nothing(message: str, part: str) -> None:
    from lazyfs.control import Control
    from lazyfs.faults import Faults
    from lazyfs.server import Server

    disk = Disk(get_profile("posix-strict"))
    disk.create(disk.root, b"a", 0o100644)
    control = Control(Server(disk, Faults()), Path("/m"), Path("/r"))
    before = control.execute({"cmd": "status"})
    answer = control.execute_line(message)
    assert '"ok": false' in answer
    assert part in answer
    assert control.execute({"cmd": "status"}) == before
    assert isinstance(disk.root, Directory)
    assert len(disk.journal) == 1


def test_a_process_that_has_no_number_here_is_not_killed() -> None:
    """One of another container asks with number 0, which to kill() is the own process group."""
    script = """if True:
        from lazyfs.faults import Event, Faults, Kill
        from lazyfs.model import Disk
        from lazyfs.profiles import get_profile
        faults = Faults()
        faults.add(Kill(before=False))
        event = Event("write", "a", "", 0, Disk(get_profile("lazyfs")).root, {}, b"")
        faults.before(event)
        faults.after(event, None)
        print("alive")
    """
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        timeout=60,
        text=True,
        process_group=0,
    )
    assert ended.stdout == "alive\n", ended.stderr
