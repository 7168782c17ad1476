"""LazyFS's own control: FIFOs and the TOML configuration."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from lazyfs.client import FifoClient
from lazyfs.errors import CommandError, MountError
from lazyfs.fifo import parse_command
from lazyfs.injection import Crash, TornOp, TornSeq
from tests.lazyfs.conftest import Mounted, MountFactory

LAZYFS_CONFIG = """
[faults]
fifo_path = "{directory}/faults"
fifo_path_completed = "{directory}/completed"

{injection}

[cache]
apply_eviction = false

[cache.simple]
custom_size = "0.5GB"
blocks_per_page = 1

[file system]
log_all_operations = false
logfile = ""
"""


def with_fifo(
    mount: MountFactory, directory: Path, injection: str = "", profile: str = "lazyfs"
) -> tuple[Mounted, FifoClient]:
    config = directory / "lazyfs.toml"
    config.write_text(LAZYFS_CONFIG.format(directory=directory, injection=injection))
    disk = mount("--config", str(config), "--profile", profile)
    return disk, FifoClient(directory / "faults", directory / "completed")


def crashed(disk: Mounted) -> bool:
    return disk.process.wait(20) == -signal.SIGKILL


def write_until_error(path: Path, pieces: list[bytes], sync: bool = True) -> int:
    """Write the pieces one after the other. Returns how many writes succeeded."""
    done = 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for piece in pieces:
            os.write(fd, piece)
            done += 1
        if sync:
            os.fsync(fd)
    except OSError:
        return done
    finally:
        with contextlib.suppress(OSError):  # the process that served it has crashed
            os.close(fd)
    return done


def test_clear_cache_is_acknowledged_and_keeps_descriptors(
    mount: MountFactory, tmp_path: Path
) -> None:
    disk, fifo = with_fifo(mount, tmp_path)
    fd = os.open(disk.path / "a", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, b"kept", 0)
    os.fsync(fd)
    os.pwrite(fd, b"lost", 0)
    fifo.clear_cache()
    assert os.pread(fd, 4, 0) == b"kept"
    os.pwrite(fd, b"more", 0)
    os.fsync(fd)
    os.close(fd)
    assert (disk.root / "a").read_bytes() == b"more"


def test_checkpoint_and_garbage_on_the_fifo(mount: MountFactory, tmp_path: Path) -> None:
    disk, fifo = with_fifo(mount, tmp_path)
    (disk.path / "a").write_bytes(b"kept")
    for line in ("", "hello", "lazyfs::explode", "lazyfs::clear-cache::x", "lazyfs::torn-op::"):
        fifo.send(line)
    fifo.send("lazyfs::cache-checkpoint\nlazyfs::unsynced-data-report")
    fifo.send("lazyfs::display-cache-usage")
    fifo.clear_cache()
    assert (disk.path / "a").read_bytes() == b"kept"


@pytest.mark.parametrize(("timing", "left"), [("before", b""), ("after", b"x" * 5)])
def test_crash(mount: MountFactory, tmp_path: Path, timing: str, left: bytes) -> None:
    disk, fifo = with_fifo(mount, tmp_path)
    fifo.send(f"lazyfs::crash::timing={timing}::op=fsync::from_rgx=a$")
    fifo.clear_cache()
    write_until_error(disk.path / "b", [b"y"])
    write_until_error(disk.path / "a", [b"x" * 5])
    assert crashed(disk)
    assert (disk.root / "a").read_bytes() == left
    assert (disk.root / "b").read_bytes() == b"y"


def test_crash_at_a_rename(mount: MountFactory, tmp_path: Path) -> None:
    disk, fifo = with_fifo(mount, tmp_path)
    fifo.send("lazyfs::crash::timing=before::op=rename::from_rgx=a$::to_rgx=b$")
    fifo.clear_cache()
    (disk.path / "a").touch()
    with pytest.raises(OSError, match=r"not connected|abort"):
        (disk.path / "a").rename(disk.path / "b")
    assert crashed(disk)
    assert [file.name for file in disk.root.iterdir()] == ["a"]


def test_torn_op_from_the_configuration(mount: MountFactory, tmp_path: Path) -> None:
    injection = """
[[injection]]
type = "torn-op"
file = "a"
occurrence = 2
parts = 3
persist = [1, 3]
"""
    disk, _ = with_fifo(mount, tmp_path, injection)
    write_until_error(disk.path / "a", [b"."])
    write_until_error(disk.path / "a", [b"xxxyyyzzz"])
    assert crashed(disk)
    assert (disk.root / "a").read_bytes() == b"xxx\0\0\0zzz"


def test_torn_sequence(mount: MountFactory, tmp_path: Path) -> None:
    disk, fifo = with_fifo(mount, tmp_path)
    fifo.send("lazyfs::torn-seq::op=write::file=a::persist=1,3::occurrence=2")
    fifo.clear_cache()
    assert write_until_error(disk.path / "a", [b"1", b"2", b"3"]) == 3
    write_until_error(disk.path / "a", [b"a", b"b", b"c", b"d"])
    assert crashed(disk)
    assert (disk.root / "a").read_bytes() == b"a2c"


def test_torn_op_on_a_new_file(mount: MountFactory, tmp_path: Path) -> None:
    disk, fifo = with_fifo(mount, tmp_path)
    fifo.send("lazyfs::torn-op::file=a::persist=2::parts_bytes=2,3")
    fifo.clear_cache()
    write_until_error(disk.path / "a", [b"aabbb"])
    assert crashed(disk)
    assert (disk.root / "a").read_bytes() == b"\0\0bbb"


def test_configuration_of_a_clear(mount: MountFactory, tmp_path: Path) -> None:
    injection = """
[[injection]]
type = "clear"
from = "b"
timing = "after"
op = "create"
occurrence = 1
crash = false
"""
    disk, _ = with_fifo(mount, tmp_path, injection)
    (disk.path / "a").write_bytes(b"lost")
    (disk.path / "b").touch()
    assert (disk.path / "a").read_bytes() == b""


def test_nobody_reads(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(MountError, match="nobody reads"):
        FifoClient(tmp_path / "fifo").send("lazyfs::clear-cache")


def test_commands_are_parsed() -> None:
    assert parse_command("lazyfs::clear-cache") == "clear-cache"
    assert parse_command("lazyfs::crash::timing=after::op=write::from_rgx=f1::to_rgx=f2") == Crash(
        "after", "write", "f1", "f2"
    )
    assert parse_command("lazyfs::torn-op::file=f::parts=3::persist=1,2") == TornOp(
        "f", 1, (3,), (1, 2)
    )
    assert parse_command("lazyfs::torn-seq::op=write::file=f::persist=2::occurrence=4") == TornSeq(
        "f", 4, "write", (2,)
    )


@pytest.mark.parametrize(
    "line",
    [
        "clear-cache",
        "lazyfs::",
        "lazyfs::clear-cache::now",
        "lazyfs::crash::timing=now::op=write::from_rgx=a",
        "lazyfs::crash::timing=before::op=wirte::from_rgx=a",
        "lazyfs::crash::timing=before::op=write",
        "lazyfs::crash::timing=before::op=write::from_rgx=(",
        "lazyfs::crash::timing=before::timing=before::op=write::from_rgx=a",
        "lazyfs::torn-op::file=f::persist=1",
        "lazyfs::torn-op::file=f::parts=2::persist=3",
        "lazyfs::torn-op::file=f::parts=2::persist=x",
        "lazyfs::torn-op::file=f::parts=2::parts_bytes=1,2::persist=1",
        "lazyfs::torn-seq::op=read::file=f::persist=1",
        "lazyfs::torn-seq::op=write::file=f::persist=1::occurrence=0",
    ],
)
def test_malformed_commands_are_errors(line: str) -> None:
    with pytest.raises(CommandError):
        parse_command(line)
