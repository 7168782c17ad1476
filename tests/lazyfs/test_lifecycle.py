"""Mounting, unmounting, and everything that can be wrong with it: one line of error each."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lazyfs import mount as mounting
from tests.lazyfs.conftest import MountFactory

Lazyfs = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def lazyfs(tmp_path: Path) -> Lazyfs:
    """Runs the command; its sockets are in the test's own directory."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lazyfs", *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )

    return call


def refused(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode != 0
    assert result.stdout == ""
    message = result.stderr.strip()
    assert message.startswith("Error: ")
    assert "\n" not in message
    return message


def is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_mount_report_power_loss_unmount(
    mount: MountFactory, lazyfs: Lazyfs, tmp_path: Path
) -> None:
    point, root = tmp_path / "m", tmp_path / "r"
    point.mkdir()
    root.mkdir()
    started = lazyfs(point, "--root", root, "--profile", "posix-strict")
    assert started.returncode == 0, started.stderr
    pid = int(started.stdout.split("process ")[1].split(";")[0])
    try:
        assert "nothing would be lost" in lazyfs("report", point).stdout
        (point / "a").write_bytes(b"x" * 1234)
        shown = lazyfs("report", point).stdout
        assert "1,234" in shown
        assert "create" in shown
        assert "1 of 1 operations on names are gone" in lazyfs("power-loss", point).stdout
        answer = lazyfs("control", point, "quota", "bytes=5").stdout
        assert '"quota_bytes": 5' in answer
    finally:
        ended = lazyfs("unmount", point)
        if mounting.mounted_at(point) is not None:
            os.kill(pid, signal.SIGTERM)
    assert ended.returncode == 0, ended.stderr
    assert mounting.mounted_at(point) is None
    assert not is_running(pid)
    assert list(tmp_path.rglob("*.sock")) == []


def test_no_root(lazyfs: Lazyfs, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert "root is not an existing directory" in refused(
        lazyfs(tmp_path / "m", "--root", tmp_path / "none")
    )


def test_no_mount_point(lazyfs: Lazyfs, tmp_path: Path) -> None:
    assert "mount point is not an existing directory" in refused(
        lazyfs(tmp_path / "none", "--root", tmp_path)
    )


def test_root_inside_the_mount_point(lazyfs: Lazyfs, tmp_path: Path) -> None:
    assert "must not be inside" in refused(lazyfs(tmp_path, "--root", tmp_path))


def test_mount_point_in_use(mount: MountFactory, lazyfs: Lazyfs, tmp_path: Path) -> None:
    disk = mount()
    assert "already in use" in refused(lazyfs(disk.path, "--root", tmp_path / "disk.root"))
    assert "already in use" in refused(
        lazyfs(disk.path, "--root", tmp_path / "disk.root", "--replace")
    )
    assert disk.command("status")["pid"] == disk.process.pid


def test_stale_mount_is_replaced_only_on_request(
    mount: MountFactory, lazyfs: Lazyfs, tmp_path: Path
) -> None:
    disk = mount("--profile", "posix-strict")
    (disk.path / "a").write_bytes(b"kept")
    disk.command("checkpoint")
    (disk.path / "b").write_bytes(b"lost")
    disk.kill()
    assert "--replace" in refused(lazyfs(disk.path, "--root", disk.root))
    again = mount("--replace")
    assert [(file.name, file.read_bytes()) for file in again.path.iterdir()] == [("a", b"kept")]


def test_stale_mount_can_be_unmounted(mount: MountFactory, lazyfs: Lazyfs) -> None:
    disk = mount()
    disk.kill()
    assert lazyfs("unmount", disk.path).returncode == 0
    assert mounting.mounted_at(disk.path) is None


def test_termination_unmounts(mount: MountFactory) -> None:
    disk = mount()
    fd = os.open(disk.path / "open", os.O_WRONLY | os.O_CREAT)
    disk.process.terminate()
    assert disk.process.wait(20) == 0
    with contextlib.suppress(OSError):  # the file system it is on is gone
        os.close(fd)
    assert mounting.mounted_at(disk.path) is None
    assert not disk.socket.exists()


def test_unmount_of_something_else(lazyfs: Lazyfs, tmp_path: Path) -> None:
    assert "nothing is mounted" in refused(lazyfs("unmount", tmp_path))
    assert "not lazyfs" in refused(lazyfs("unmount", "/proc"))


def test_report_where_nothing_answers(lazyfs: Lazyfs, tmp_path: Path) -> None:
    assert "no lazyfs answers" in refused(lazyfs("report", tmp_path))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("[lazyfs]\nprofil = 'x'", "unknown key 'profil' in [lazyfs]"),
        ("[lazyfs]\nseed = 'x'", "int is needed"),
        ("[lazyfs]\nprofile = 'x'", "unknown profile 'x'"),
        ("[fautls]\n", "unknown section [fautls]"),
        ("[cache.simple]\npages = 1", "unknown key 'pages' in [cache.simple]"),
        ("[[injection]]\ntype = 'x'", "unknown type 'x'"),
        ("[[injection]]\ntype = 'torn-op'\nfile = 'a'\nparts = 2\npersist = [3]", "persist"),
        ("[[injection]]\ntype = 'torn-seq'\nop = 'write'\npersist = [1]", "'file' is missing"),
        ("[[injection]]\ntype = 'clear'\ntiming = 'soon'\nop = 'write'\nfrom = 'a'", "timing"),
        ("[lazyfs", ""),
    ],
)
def test_wrong_configuration(lazyfs: Lazyfs, tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "m").mkdir()
    config = tmp_path / "lazyfs.toml"
    config.write_text(text)
    message = refused(lazyfs(tmp_path / "m", "--root", tmp_path, "--config", config))
    assert str(config) in message or "profile" in message
    assert part in message
    assert mounting.mounted_at(tmp_path / "m") is None


def test_missing_configuration(lazyfs: Lazyfs, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert "No such file" in refused(
        lazyfs(tmp_path / "m", "--root", tmp_path, "--config", tmp_path / "none.toml")
    )


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(mounting, "DEVICE", tmp_path / "fuse")
        assert "fuse does not exist: load the fuse module" in str(mounting.missing_requirement())
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: 1000)
        patch.setattr(shutil, "which", lambda name: None)
        assert "install the package fuse3" in str(mounting.missing_requirement())
    with monkeypatch.context() as patch:
        patch.setattr(mounting, "DEVICE", tmp_path)
        assert "cannot be opened: Is a directory" in str(mounting.missing_requirement())


FAILING = """
import os
import pytest
from tests.lazyfs.conftest import MountFactory, mount


def test_fails(mount: MountFactory) -> None:
    first, second = mount(name="first"), mount(name="second")
    os.open(first.path / "open", os.O_CREAT)
    second.kill()  # a stale mount
    with pytest.raises(RuntimeError, match="a stale mount"):
        mount(name="second")
    print(f"pids {first.process.pid} {second.process.pid} end")
    raise AssertionError("on purpose")
"""


def test_a_failing_test_leaves_no_mount_and_no_process(tmp_path: Path) -> None:
    test = tmp_path / "test_failing.py"
    test.write_text(FAILING)
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'base'}",
         f"--rootdir={tmp_path}", "--capture=no", "-q", str(test)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "on purpose" in ended.stdout
    assert not [entry for entry in mounting.mounts() if str(tmp_path) in entry.mount_point]
    pids = ended.stdout.split("pids ")[1].split(" end")[0].split()
    assert not any(is_running(int(pid)) for pid in pids)
