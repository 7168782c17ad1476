"""While nothing fails, the mount and a real directory give the same results and content."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.lazyfs.conftest import MountFactory

NAMES = ("a", "b", "d", "d/a", "d/b", "e", "e/a")
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
libc = ctypes.CDLL(None, use_errno=True)

Op = tuple[object, ...]
name = st.sampled_from(NAMES)
offset = st.integers(0, 20_000)
length = st.integers(1, 9_000)
operation = st.one_of(
    st.tuples(st.just("create"), name),
    st.tuples(st.just("mkdir"), st.sampled_from(["d", "e", "a"])),
    st.tuples(st.just("write"), name, offset, length, st.integers(1, 255)),
    st.tuples(st.just("append"), name, length, st.integers(1, 255)),
    st.tuples(st.just("truncate"), name, offset),
    st.tuples(st.just("fallocate"), name, st.sampled_from([0, KEEP_SIZE, ZERO_RANGE,
              ZERO_RANGE | KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE]), offset, length),
    st.tuples(st.just("fsync"), name),
    st.tuples(st.just("rename"), name, name),
    st.tuples(st.just("exchange"), name, name),
    st.tuples(st.just("link"), name, name),
    st.tuples(st.just("symlink"), name, name),
    st.tuples(st.just("unlink"), name),
    st.tuples(st.just("rmdir"), name),
    st.tuples(st.just("chmod"), name, st.sampled_from([0o600, 0o755, 0o4755])),
    st.tuples(st.just("list"), st.sampled_from(["", "d", "e"])),
)  # fmt: skip


def result_of(top: Path, op: Op) -> object:
    """What a program sees of one operation: its result or its errno."""
    try:
        return carry_out(top, op)
    except OSError as error:
        return f"errno {error.errno}"


def carry_out(top: Path, op: Op) -> object:
    kind, first, *rest = op
    path = top / str(first)
    if kind == "create":
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
    elif kind in ("write", "append", "fallocate", "fsync"):
        flags = os.O_APPEND if kind == "append" else 0
        fd = os.open(path, os.O_RDWR | flags)
        try:
            return on_descriptor(fd, str(kind), rest)
        finally:
            os.close(fd)
    elif kind == "truncate":
        os.truncate(path, int(str(rest[0])))
    elif kind == "exchange":
        if libc.renameat2(-100, bytes(path), -100, bytes(top / str(rest[0])), 2):
            return f"errno {ctypes.get_errno()}"
    elif kind == "rename":
        path.rename(top / str(rest[0]))
    elif kind == "link":
        os.link(path, top / str(rest[0]))
    elif kind == "symlink":
        (top / str(rest[0])).symlink_to(str(first))
    elif kind == "chmod":
        path.chmod(int(str(rest[0])))
    elif kind == "list":
        return sorted(entry.name for entry in path.iterdir())
    else:
        getattr(path, str(kind))()
    return None


def on_descriptor(fd: int, kind: str, rest: list[object]) -> object:
    numbers = [int(str(number)) for number in rest]
    if kind == "write":
        return os.pwrite(fd, bytes([numbers[2]]) * numbers[1], numbers[0])
    if kind == "append":
        return os.write(fd, bytes([numbers[1]]) * numbers[0])
    if kind == "fsync":
        os.fsync(fd)
        return os.fstat(fd).st_size
    mode, start, count = numbers
    done = libc.fallocate(fd, mode, ctypes.c_long(start), ctypes.c_long(count))
    return done if done == 0 else f"errno {ctypes.get_errno()}"


def tree(top: Path) -> dict[str, object]:
    """Everything below a directory, as far as it must be the same."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        info = path.lstat()
        content: object = None
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        links = info.st_nlink if not path.is_dir() else 0
        found[str(path.relative_to(top))] = (oct(info.st_mode), links, content)
    return found


def empty(top: Path) -> None:
    for path in list(top.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@pytest.mark.parametrize("profile", ["lazyfs", "posix-strict", "ext4-ordered"])
def test_same_results_as_a_real_directory(
    mount: MountFactory, tmp_path: Path, profile: str
) -> None:
    disk = mount("--profile", profile)
    real = tmp_path / "real"
    real.mkdir()

    @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(program=st.lists(operation, max_size=25), cut=st.booleans())
    def check(program: list[Op], cut: bool) -> None:
        empty(real)
        empty(disk.path)
        for op in program:
            assert result_of(disk.path, op) == result_of(real, op), op
        assert tree(disk.path) == tree(real)
        disk.command("checkpoint")
        assert tree(disk.root) == tree(real)
        if cut:
            disk.power_loss()
            assert tree(disk.path) == tree(real)

    check()


@pytest.mark.parametrize("seed", range(3))
def test_random_access_to_one_file(mount: MountFactory, seed: int) -> None:
    """As fsx does: reads, writes, truncates, holes, syncs, cuts, checked byte for byte."""
    disk = mount("--profile", "posix-strict")
    rng = random.Random(seed)
    path = disk.path / "a"
    path.touch()
    disk.command("checkpoint")
    now = synced = b""
    for _ in range(1500):
        fd = os.open(path, os.O_RDWR)
        start, count = rng.randrange(60_000), rng.randrange(1, 20_000)
        kind = rng.choice(("read", "read", "write", "write", "truncate", "punch", "fsync", "cut"))
        if kind == "read":
            assert os.pread(fd, count, start) == now[start : start + count]
        elif kind == "write":
            data = rng.randbytes(count)
            assert os.pwrite(fd, data, start) == count
            now = now.ljust(start, b"\0")
            now = now[:start] + data + now[start + count :]
        elif kind == "truncate":
            os.ftruncate(fd, start)
            now = now[:start].ljust(start, b"\0")
        elif kind == "punch":
            mode = PUNCH_HOLE | KEEP_SIZE
            assert libc.fallocate(fd, mode, ctypes.c_long(start), ctypes.c_long(count)) == 0
            end = min(start + count, len(now))
            now = now[:start] + bytes(max(0, end - start)) + now[max(start, end) :]
        elif kind == "fsync":
            os.fdatasync(fd)
            synced = now
        elif rng.random() < 0.2:
            disk.power_loss()
            now = synced
        os.close(fd)
        assert path.stat().st_size == len(now)
    assert path.read_bytes() == now
    assert (disk.root / "a").read_bytes() == synced


@pytest.mark.parametrize("job", ["randwrite", "write", "randrw"])
def test_fio_verifies_what_it_wrote(mount: MountFactory, tmp_path: Path, job: str) -> None:
    fio = shutil.which("fio")
    assert fio is not None, "fio is not installed: install the package fio"
    disk = mount("--profile", "posix-strict")
    run = subprocess.run(
        [fio, f"--name={job}", f"--directory={disk.path}", f"--rw={job}", "--size=8m",
         "--bsrange=512-64k", "--direct=0", "--verify=crc32c", "--fdatasync=32", "--numjobs=2",
         "--ioengine=psync", "--verify_fatal=1", "--group_reporting", "--fallocate=keep"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,  # it leaves a file about its verification there
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    disk.command("checkpoint")
    for file in disk.path.iterdir():
        assert file.read_bytes() == (disk.root / file.name).read_bytes()
