"""Traces: every operation with its data, one JSON object a line, and their replay on a disk."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lazyfs.faults import Event
from lazyfs.inode import Directory, Inode
from lazyfs.model import Disk


class Recorder:
    """Writes the operations of a mount to a file.

    Args:
        path: the file, outside of the mount; replaced if it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self._file = path.open("w", encoding="utf-8", errors="surrogateescape")

    def watch(self, event: Event, error: OSError | None) -> None:
        """Write one operation (see `Faults.watchers`)."""
        line: dict[str, Any] = {
            "op": event.op,
            "path": event.path,
            "pid": event.pid,
            "ino": event.inode.ino,
            "error": 0 if error is None else error.errno,
            **event.details,
        }
        if event.to_path:
            line["to"] = event.to_path
        if event.data:
            line["data"] = base64.b64encode(event.data).decode("ascii")
        self._write(line)

    def note(self, op: str, **values: object) -> None:
        """Write something that was done to the disk by a control command."""
        self._write({"op": op, "error": 0, **values})

    def close(self) -> None:
        """Finish the file."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self.count += 1
        self._file.write(json.dumps({"n": self.count, **line}) + "\n")


def replay(lines: Iterable[str], disk: Disk) -> int:
    """Carry out the successful changing operations of a trace on an empty disk.

    Args:
        lines: of a trace recorded from the mount's first operation.
        disk: with the same content as the one recorded had; normally empty.
    Returns:
        The number of operations carried out.
    """
    count = 0
    inodes: dict[int, Inode] = {}
    for text in lines:
        line = json.loads(text)
        if line["error"] == 0 and _replay_one(line, disk, inodes):
            count += 1
    return count


def _replay_one(line: dict[str, Any], disk: Disk, inodes: dict[int, Inode]) -> bool:
    op = line["op"]
    if op == "power-loss":
        disk.power_loss(line["seed"])
        inodes.clear()
    elif op == "sync":
        disk.sync_all()
    elif op in ("create", "mkdir", "mknod", "symlink"):
        parent, name = _parent_and_name(disk, line["path"])
        mode = line.get("mode", 0o777)
        kind = {"create": 0o100000, "mkdir": 0o040000, "symlink": 0o120000}.get(op, 0)
        target = line.get("target", "").encode("utf-8", "surrogateescape")
        disk.create(parent, name, kind | mode, target=target)
    elif op in ("unlink", "rmdir"):
        parent, name = _parent_and_name(disk, line["path"])
        removed = parent.entries[name]
        removed.handles += 1  # a later write to it may be in the trace
        (disk.unlink if op == "unlink" else disk.rmdir)(parent, name)
    elif op == "rename":
        parent, name = _parent_and_name(disk, line["path"])
        new_parent, new_name = _parent_and_name(disk, line["to"])
        disk.rename(parent, name, new_parent, new_name, line.get("flags", 0))
    elif op == "link":
        parent, name = _parent_and_name(disk, line["path"])
        disk.link(disk.resolve(line["from"]), parent, name)
    else:
        return _replay_on_file(line, disk, inodes)
    return True


def _replay_on_file(line: dict[str, Any], disk: Disk, inodes: dict[int, Inode]) -> bool:
    op = line["op"]
    inode = inodes.get(line["ino"])
    if inode is None:
        if not line["path"] and op != "fsyncdir":
            return False
        inode = inodes[line["ino"]] = disk.resolve(line["path"])
    if op == "write":
        disk.write(inode, line["offset"], base64.b64decode(line["data"]))
    elif op == "truncate":
        disk.truncate(inode, line["size"])
    elif op == "fallocate" and line["mode"] == 0:
        disk.allocate(inode, line["offset"], line["size"])
    elif op == "fallocate" and line["mode"] & ~1:
        disk.zero(inode, line["offset"], line["size"], extend=not line["mode"] & 1)
    elif op in ("fsync", "fdatasync", "fsyncdir"):
        disk.sync(inode, data_only=op == "fdatasync")
    else:
        return False
    return True


def _parent_and_name(disk: Disk, path: str) -> tuple[Directory, bytes]:
    head, _, name = path.rpartition("/")
    parent = disk.resolve(head)
    assert isinstance(parent, Directory)
    return parent, name.encode("utf-8", "surrogateescape")
