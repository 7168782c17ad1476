"""The objects of a disk: files, directories, symbolic links and special files."""

from __future__ import annotations

import errno
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from lazyfs.content import Base, View, apply_to_base
from lazyfs.errors import refuse
from lazyfs.ops import DataOp, SetAttr, SetXattr, Write


@dataclass(slots=True)
class Attr:
    """What stat tells, except size and links. Times are nanoseconds since 1970."""

    mode: int
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    atime_ns: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0

    def copy(self) -> Attr:
        """An independent copy."""
        return Attr(
            self.mode,
            self.uid,
            self.gid,
            self.rdev,
            self.atime_ns,
            self.mtime_ns,
            self.ctime_ns,
        )


@dataclass(slots=True, eq=False)
class Inode:
    """One object with its synced and its pending state.

    Attributes:
        ino: number, never reused while the disk is in use.
        attr, xattrs: as a program sees them now; `synced_*`: as they would be after a power loss.
        names: (directory, name) pairs that refer to it now; `synced_names`: durably.
        pending: content and attribute operations since the last sync, oldest first.
        base: the synced content; None while nothing was synced (an empty file).
        view: the current content.
        ghost: a failed sync dropped pending operations whose effect is still to be seen.
        pending_names: pending name operations that would give it a name.
        misdirect_bytes: how far from its place the next synced write goes; once.
        handles: open descriptors; `lookups`: references the kernel holds.
    """

    ino: int
    attr: Attr
    synced_attr: Attr
    target: bytes = b""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    synced_xattrs: dict[str, bytes] = field(default_factory=dict)
    names: set[tuple[Directory, bytes]] = field(default_factory=set)
    synced_names: set[tuple[Directory, bytes]] = field(default_factory=set)
    pending: list[DataOp] = field(default_factory=list)
    pending_bytes: int = 0
    base: Base | None = None
    view: View = field(default_factory=View)
    ghost: bool = False
    pending_names: int = 0
    misdirect_bytes: int = 0
    handles: int = 0
    lookups: int = 0

    @property
    def is_directory(self) -> bool:
        """Whether it is a `Directory`."""
        return stat.S_ISDIR(self.attr.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.attr.mode)

    @property
    def size(self) -> int:
        """Current size in bytes."""
        return len(self.target) if self.target else self.view.size

    @property
    def synced_size(self) -> int:
        """Size in bytes after a power loss in which nothing un-synced survives."""
        return 0 if self.base is None else self.base.size

    @property
    def link_count(self) -> int:
        """Current number of links, as stat tells it."""
        return len(self.names)

    @property
    def referenced(self) -> bool:
        """Whether a program or a name can still reach it."""
        return bool(
            self.names or self.synced_names or self.pending_names or self.handles or self.lookups
        )

    def add_pending(self, op: DataOp) -> None:
        """Queue an operation and let the current state show it."""
        self.pending.append(op)
        if isinstance(op, SetAttr):
            for name, value in op.changes:
                setattr(self.attr, name, value)
        elif isinstance(op, SetXattr):
            _set_xattr(self.xattrs, op)
        else:
            if isinstance(op, Write):
                self.pending_bytes += len(op.data)
            self.view.apply(self.base, op)

    def make_synced(self, op: DataOp) -> None:
        """Apply one operation to the synced state. A file must have a base."""
        if isinstance(op, SetAttr):
            for name, value in op.changes:
                setattr(self.synced_attr, name, value)
        elif isinstance(op, SetXattr):
            _set_xattr(self.synced_xattrs, op)
        else:
            assert self.base is not None
            if self.misdirect_bytes and isinstance(op, Write):
                op = Write(max(0, op.offset + self.misdirect_bytes), op.data)
                self.misdirect_bytes = 0
            apply_to_base(self.base, op)

    def forget_pending(self) -> None:
        """Nothing is pending any more; the current content is the synced one."""
        self.pending.clear()
        self.pending_bytes = 0
        self.ghost = False
        self.view.reset(self.synced_size)

    def revert(self) -> None:
        """The current state is the synced one."""
        self.forget_pending()
        self.attr = self.synced_attr.copy()
        self.xattrs = dict(self.synced_xattrs)

    def ancestors(self) -> Iterator[Directory]:
        """The directories above it, nearest first, following one name of each."""
        node: Inode = self
        while node.names:
            parent = next(iter(node.names))[0]
            yield parent
            node = parent


@dataclass(slots=True, eq=False)
class Directory(Inode):
    """A directory: its names as programs see them and as they are durable."""

    entries: dict[bytes, Inode] = field(default_factory=dict)
    synced_entries: dict[bytes, Inode] = field(default_factory=dict)

    @property
    def link_count(self) -> int:
        """Two, and one for each directory in it; none once it was removed."""
        if self.ino != ROOT_INO and not self.names:
            return 0
        return 2 + sum(child.is_directory for child in self.entries.values())


ROOT_INO = 1


def paths_of(inode: Inode, synced: bool = False) -> list[str]:
    """The paths of an inode relative to the mount, sorted; none when it has no name.

    Args:
        inode: any object of the disk.
        synced: by its durable names rather than its current ones.
    """
    if inode.ino == ROOT_INO:
        return [""]
    result = []
    for parent, name in inode.synced_names if synced else inode.names:
        for prefix in paths_of(parent, synced):
            text = name.decode("utf-8", "surrogateescape")
            result.append(f"{prefix}/{text}" if prefix else text)
    return sorted(result)


def _set_xattr(xattrs: dict[str, bytes], op: SetXattr) -> None:
    if op.value is None:
        xattrs.pop(op.name, None)
    else:
        xattrs[op.name] = op.value


def check_replaceable(inode: Inode, other: Inode) -> None:
    """Check that `inode` may take the name of `other`: of the same kind, and an empty directory.

    Raises:
        OSError: it may not.
    """
    if isinstance(other, Directory):
        if not inode.is_directory:
            raise refuse(errno.EISDIR)
        if other.entries:
            raise refuse(errno.ENOTEMPTY)
    elif inode.is_directory:
        raise refuse(errno.ENOTDIR)
