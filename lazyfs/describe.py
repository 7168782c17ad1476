"""What a FUSE request is about, in the words of faults and traces: operation, path, details."""

from __future__ import annotations

import os
from typing import NamedTuple

from lazyfs import protocol as fuse
from lazyfs.faults import Event
from lazyfs.inode import Directory, paths_of
from lazyfs.model import Disk


class Request(NamedTuple):
    """One request: who asks for what on which node, and the rest of its message."""

    opcode: int
    node: int
    uid: int
    gid: int
    pid: int
    body: memoryview


# Operations that faults and traces concern, by their request.
_OP_NAMES = {
    fuse.SETATTR: "setattr",
    fuse.SYMLINK: "symlink",
    fuse.MKNOD: "mknod",
    fuse.MKDIR: "mkdir",
    fuse.UNLINK: "unlink",
    fuse.RMDIR: "rmdir",
    fuse.RENAME: "rename",
    fuse.RENAME2: "rename",
    fuse.LINK: "link",
    fuse.OPEN: "open",
    fuse.CREATE: "create",
    fuse.READ: "read",
    fuse.WRITE: "write",
    fuse.RELEASE: "release",
    fuse.FSYNC: "fsync",
    fuse.FSYNCDIR: "fsyncdir",
    fuse.SETXATTR: "setxattr",
    fuse.REMOVEXATTR: "removexattr",
    fuse.OPENDIR: "opendir",
    fuse.READDIR: "readdir",
    fuse.FALLOCATE: "fallocate",
}
OP_NAMES = frozenset(_OP_NAMES.values()) | {"truncate", "fdatasync"}

# Requests on a name in the directory that is their node: where in the body the name begins.
_NAME_OFFSETS = {
    fuse.SYMLINK: 0,
    fuse.MKNOD: fuse.MKNOD_IN.size,
    fuse.MKDIR: fuse.MKDIR_IN.size,
    fuse.UNLINK: 0,
    fuse.RMDIR: 0,
    fuse.RENAME: fuse.RENAME_IN.size,
    fuse.RENAME2: fuse.RENAME2_IN.size,
    fuse.LINK: fuse.LINK_IN.size,
    fuse.CREATE: fuse.CREATE_IN.size,
}


def describe(disk: Disk, request: Request) -> Event | None:
    """What a request is about.

    Returns:
        None if faults and traces are not concerned with it.
    """
    name = _OP_NAMES.get(request.opcode)
    node = disk.inodes.get(request.node)
    if name is None or node is None:
        return None
    body = request.body
    path, to_path, details = paths_of(node), "", {}
    if request.opcode in _NAME_OFFSETS:
        offset = _NAME_OFFSETS[request.opcode]
        found = fuse.names(body[offset:], 2)
        path = _joined(path, found[0])
        if request.opcode in (fuse.RENAME, fuse.RENAME2):
            new_parent = disk.inodes.get(fuse.RENAME_IN.unpack_from(body)[0])
            if new_parent is not None:
                to_path = _joined(paths_of(new_parent), found[1])[0]
            if request.opcode == fuse.RENAME2:
                details["flags"] = fuse.RENAME2_IN.unpack_from(body)[1]
        details.update(_name_details(disk, request))
    elif request.opcode in (fuse.READ, fuse.WRITE):
        _, offset, size, *_ = fuse.READ_IN.unpack_from(body)
        details.update(offset=offset, size=size)
    elif request.opcode == fuse.FALLOCATE:
        _, offset, length, mode, _ = fuse.FALLOCATE_IN.unpack_from(body)
        details.update(offset=offset, size=length, mode=mode)
    elif request.opcode == fuse.SETATTR:
        valid, _, _, size, *_ = fuse.SETATTR_IN.unpack_from(body)
        name = "truncate" if valid & fuse.FATTR_SIZE else "setattr"
        details.update(size=size)
    elif request.opcode == fuse.FSYNC and not isinstance(node, Directory):
        flags = fuse.FSYNC_IN.unpack_from(body)[1]
        name = "fdatasync" if flags & fuse.FSYNC_FDATASYNC else "fsync"
    data = bytes(body[fuse.WRITE_IN.size :]) if request.opcode == fuse.WRITE else b""
    return Event(name, path[0] if path else "", to_path, request.pid, node, details, data)


def _name_details(disk: Disk, request: Request) -> dict[str, int | str]:
    if request.opcode == fuse.LINK:
        source = disk.inodes.get(fuse.LINK_IN.unpack_from(request.body)[0])
        paths = [] if source is None else paths_of(source)
        return {"from": paths[0] if paths else ""}
    if request.opcode == fuse.SYMLINK:
        return {"target": os.fsdecode(fuse.names(request.body, 2)[1])}
    if request.opcode == fuse.CREATE:
        return {"mode": fuse.CREATE_IN.unpack_from(request.body)[1]}
    if request.opcode in (fuse.MKDIR, fuse.MKNOD):
        return {"mode": fuse.MKDIR_IN.unpack_from(request.body)[0]}
    return {}


def _joined(parents: list[str], name: bytes) -> list[str]:
    text = os.fsdecode(name)
    return [f"{parent}/{text}" if parent else text for parent in parents[:1]] or [text]
