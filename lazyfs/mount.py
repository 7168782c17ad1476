"""Mounting and unmounting: /dev/fuse, the mount table, and mounts whose process was killed."""

from __future__ import annotations

import array
import ctypes
import errno
import os
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lazyfs.errors import MountError

DEVICE = Path("/dev/fuse")
_MOUNT_TYPE = "fuse.lazyfs"
_MS_NOSUID, _MS_NODEV = 2, 4
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class MountEntry:
    """One line of the mount table."""

    mount_point: str
    kind: str
    options: str


def missing_requirement() -> str | None:
    """What is missing on this machine to mount, in one line; None if nothing is."""
    if not DEVICE.exists():
        return f"{DEVICE} does not exist: load the fuse module, or pass the device to the container"
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        return "fusermount3 is not installed and the user is not root: install the package fuse3"
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{DEVICE} cannot be opened: {error.strerror}"
    return None


def mounts() -> list[MountEntry]:
    """The mount table, oldest mount first."""
    result = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mount_point, kind, options, *_ = line.split(" ")
        unescaped = mount_point.encode().decode("unicode_escape").encode("latin-1")
        result.append(MountEntry(os.fsdecode(unescaped), kind, options))
    return result


def mounted_at(mount_point: Path) -> MountEntry | None:
    """The topmost mount at exactly this place."""
    wanted = os.path.realpath(mount_point.parent) + "/" + mount_point.name
    found = [e for e in mounts() if e.mount_point in (wanted, str(mount_point))]
    return found[-1] if found else None


def is_stale(mount_point: Path) -> bool:
    """Whether a FUSE mount is there whose process is gone."""
    try:
        mount_point.stat()
    except OSError as error:
        return error.errno == errno.ENOTCONN
    return False


def prepare_mount_point(mount_point: Path, replace: bool) -> Path:
    """Check that something can be mounted there, and remove a stale mount if that is wanted.

    Args:
        mount_point: an existing directory.
        replace: remove a stale lazyfs mount.
    Returns:
        The absolute path of the mount point.
    Raises:
        MountError: it cannot be used.
    """
    mount_point = mount_point.absolute()
    if is_stale(mount_point):
        if not replace:
            raise MountError(
                f"{mount_point}: a stale mount of a killed process is there; --replace removes it"
            )
        unmount(mount_point)
    if not mount_point.is_dir():
        raise MountError(f"{mount_point}: the mount point is not an existing directory")
    entry = mounted_at(mount_point)
    if entry is not None:
        raise MountError(f"{mount_point}: already in use by a mount of type {entry.kind}")
    return mount_point


def mount(mount_point: Path) -> int:
    """Mount, as root with the system call, otherwise through fusermount3.

    Returns:
        The descriptor on which the kernel's requests are read and answered.
    Raises:
        MountError: with what is missing.
    """
    missing = missing_requirement()
    if missing is not None:
        raise MountError(missing)
    if os.geteuid() != 0:
        return _mount_with_helper(mount_point)
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    result = _libc.mount(
        b"lazyfs",
        os.fsencode(mount_point),
        _MOUNT_TYPE.encode(),
        _MS_NOSUID | _MS_NODEV,
        options.encode(),
    )
    if result != 0:
        code = ctypes.get_errno()
        os.close(fd)
        hint = " (in a container: needs SYS_ADMIN)" if code == errno.EPERM else ""
        raise MountError(f"{mount_point}: cannot mount: {os.strerror(code)}{hint}")
    return fd


def _mount_with_helper(mount_point: Path) -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        options = "default_permissions,fsname=lazyfs,subtype=lazyfs"
        result = subprocess.run(
            ["fusermount3", "-o", options, "--", str(mount_point)],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
        )
        if result.returncode != 0:
            raise MountError(result.stderr.strip() or f"{mount_point}: fusermount3 failed")
        size = array.array("i").itemsize
        _, control, _, _ = ours.recvmsg(1, socket.CMSG_LEN(size))
        for level, kind, data in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                return int.from_bytes(data[:size], "little")
    raise MountError(f"{mount_point}: fusermount3 gave no descriptor")


def unmount(mount_point: Path) -> None:
    """Unmount; a mount that is still in use goes away when it is no longer.

    Raises:
        MountError: it is not mounted, or not ours to unmount.
    """
    entry = mounted_at(mount_point.absolute())
    if entry is None:
        raise MountError(f"{mount_point}: nothing is mounted there")
    if entry.kind != _MOUNT_TYPE:
        raise MountError(f"{mount_point}: the mount there is {entry.kind}, not lazyfs")
    if os.geteuid() == 0:
        if _libc.umount2(os.fsencode(mount_point), _MNT_DETACH) != 0:
            code = ctypes.get_errno()
            raise MountError(f"{mount_point}: cannot unmount: {os.strerror(code)}")
        return
    result = subprocess.run(
        ["fusermount3", "-u", "-z", "--", str(mount_point)], capture_output=True, text=True
    )
    if result.returncode != 0:
        raise MountError(result.stderr.strip() or f"{mount_point}: fusermount3 failed")
