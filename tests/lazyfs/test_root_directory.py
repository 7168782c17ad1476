"""The directory below holds exactly the synced state, after every single operation."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from lazyfs.inode import Directory
from lazyfs.mirror import DirectoryBacking
from lazyfs.model import RENAME_EXCHANGE, Disk
from lazyfs.profiles import PROFILES, get_profile

RUNS = 40
OPERATIONS = 60
NAMES = (b"a", b"b", b"c")
KINDS = (
    "create", "create", "mkdir", "symlink", "write", "write", "truncate", "sync", "sync",
    "sync directory", "sync directory", "rename", "rename", "exchange", "link", "unlink", "rmdir",
    "cut",
)  # fmt: skip

Tree = dict[str, bytes | None]


def synced_tree(directory: Directory, prefix: str = "") -> Tree:
    found: Tree = {}
    for name, inode in directory.synced_entries.items():
        path = prefix + os.fsdecode(name)
        if isinstance(inode, Directory):
            found[path] = None
            found |= synced_tree(inode, path + "/")
        elif inode.is_file:
            found[path] = b"" if inode.base is None else inode.base.read(0, inode.base.size)
        else:
            found[path] = inode.target
    return found


def tree_in(root: Path) -> Tree:
    found: Tree = {}
    for path in root.rglob("*"):
        content = None
        if path.is_symlink():
            content = bytes(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        found[str(path.relative_to(root))] = content
    return found


def operate(disk: Disk, rng: random.Random) -> None:
    """One random operation; it may be refused."""
    kind = rng.choice(KINDS)
    directories = [inode for inode in disk.inodes.values() if isinstance(inode, Directory)]
    parent, other = rng.choice(directories), rng.choice(directories)
    name, new_name = rng.choice(NAMES), rng.choice(NAMES)
    if kind == "create":
        disk.create(parent, name, 0o100644)
    elif kind == "mkdir":
        disk.create(parent, name, 0o040755)
    elif kind == "symlink":
        disk.create(parent, name, 0o120777, target=b"target")
    elif kind in ("rename", "exchange"):
        flags = RENAME_EXCHANGE if kind == "exchange" else 0
        disk.rename(parent, name, other, new_name, flags)
    elif kind == "link":
        disk.link(disk.lookup(parent, name), other, new_name)
    elif kind == "unlink":
        disk.unlink(parent, name)
    elif kind == "rmdir":
        disk.rmdir(parent, name)
    elif kind == "sync directory":
        disk.sync(parent)
    elif kind == "cut":
        if rng.random() < 0.4:
            disk.power_loss()
    elif (inode := disk.lookup(parent, name)).is_file:
        if kind == "write":
            disk.write(inode, rng.randrange(6000), rng.randbytes(rng.randrange(1, 6000)))
        elif kind == "truncate":
            disk.truncate(inode, rng.randrange(6000))
        else:
            disk.sync(inode)


@pytest.fixture(params=["unnamed files", "no unnamed files"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without O_TMPFILE in the file system below."""
    if request.param == "unnamed files":
        return
    real_open = os.open

    def refusing(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, os.strerror(95))
        return real_open(path, flags, mode)

    monkeypatch.setattr(os, "open", refusing)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.usefixtures("file_system")
def test_root_is_the_synced_state(tmp_path: Path, profile: str) -> None:
    for seed in range(RUNS):
        rng = random.Random(seed)
        root = tmp_path / str(seed)
        root.mkdir()
        disk = Disk(get_profile(profile), DirectoryBacking(root), seed)
        for _ in range(OPERATIONS):
            try:
                operate(disk, rng)
            except OSError as error:
                if error.filename is not None:
                    raise  # not refused by the model: the directory below failed
            assert synced_tree(disk.root) == tree_in(root)
        again = Disk(get_profile(profile), DirectoryBacking(root))
        assert synced_tree(again.root) == tree_in(root)
        for inode in (*disk.inodes.values(), *again.inodes.values()):
            disk.backing.release(inode)
