"""Keeps the synced state in a directory: at every moment the directory is what survived.

Content is written with pwrite and never synced to the device below: power loss is modelled here,
and the directory only has to outlive this process. An inode with synced content but no synced
name (or one that was removed while it is still open) is an unnamed file of the same file system.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lazyfs.backing import MemoryBacking
from lazyfs.content import Base
from lazyfs.inode import ROOT_INO, Attr, Directory, Inode
from lazyfs.ops import NameOp

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_COPY_BYTES = 1 << 20


class FileBase:
    """Synced content in a file of the directory, or in one without a name.

    Args:
        locate: the path of the file now, by its synced names.
        fd: an open descriptor, or None to open the path when needed.
        size: size in bytes.
    """

    def __init__(self, locate: Callable[[], bytes | None], fd: int | None, size: int) -> None:
        self.size = size
        self._locate = locate
        self._fd = fd

    @property
    def fd(self) -> int:
        """A descriptor for reading and writing, opened when first needed."""
        if self._fd is None:
            path = self._locate()
            assert path is not None, "content without a name and without a descriptor"
            self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        return self._fd

    def read(self, offset: int, length: int) -> bytes:
        """See `content.Base`."""
        return os.pread(self.fd, length, offset)

    def write(self, offset: int, data: bytes) -> None:
        """See `content.Base`."""
        written = os.pwrite(self.fd, data, offset)
        while written < len(data):
            written += os.pwrite(self.fd, data[written:], offset + written)
        if offset + written > self.size:
            self.size = offset + written

    def truncate(self, size: int) -> None:
        """See `content.Base`."""
        os.ftruncate(self.fd, size)
        self.size = size

    def replace_fd(self, fd: int) -> None:
        """Use another descriptor from now on."""
        self.close()
        self._fd = fd

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class DirectoryBacking(MemoryBacking):
    """The synced state as a directory tree.

    Args:
        root: an existing directory; what is in it is the disk's content.
    """

    def __init__(self, root: Path) -> None:
        self.root = os.fsencode(root.resolve())
        self._stored: dict[int, tuple[object, ...]] = {}

    # -- loading -------------------------------------------------------------------------

    def load(self, root: Directory) -> int:
        """See `MemoryBacking.load`."""
        info = os.stat(self.root)
        root.attr = _attr_of(info)
        root.synced_attr = root.attr.copy()
        known: dict[tuple[int, int], Inode] = {(info.st_dev, info.st_ino): root}
        todo: list[tuple[bytes, Directory]] = [(self.root, root)]
        last_ino = ROOT_INO
        while todo:
            path, directory = todo.pop()
            with os.scandir(path) as found:
                for item in found:
                    info = item.stat(follow_symlinks=False)
                    key = (info.st_dev, info.st_ino)
                    inode = known.get(key)
                    if inode is None:
                        last_ino += 1
                        inode = known[key] = self._load_one(last_ino, item.path, info)
                        if isinstance(inode, Directory):
                            todo.append((item.path, inode))
                    directory.synced_entries[item.name] = inode
        return last_ino

    def _load_one(self, ino: int, path: bytes, info: os.stat_result) -> Inode:
        attr = _attr_of(info)
        if stat.S_ISDIR(info.st_mode):
            inode: Inode = Directory(ino, attr, attr.copy())
        else:
            inode = Inode(ino, attr, attr.copy())
            if stat.S_ISLNK(info.st_mode):
                inode.target = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                inode.base = FileBase(partial(self._path, inode), None, info.st_size)
                inode.view.reset(info.st_size)
        with contextlib.suppress(OSError):
            for name in os.listxattr(path, follow_symlinks=False):
                inode.synced_xattrs[name] = os.getxattr(path, name, follow_symlinks=False)
        inode.xattrs = dict(inode.synced_xattrs)
        self._stored[ino] = _stored_form(inode)
        return inode

    # -- content -------------------------------------------------------------------------

    def new_base(self, inode: Inode) -> Base:
        """See `MemoryBacking.new_base`. A file with a synced name always has a base already."""
        return self._unnamed_base(inode)

    def _unnamed_base(self, inode: Inode) -> FileBase:
        try:
            fd = os.open(self.root, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                raise
            # A file system without unnamed files: the content is copied when it gets a name.
            fd = os.memfd_create("lazyfs", os.MFD_CLOEXEC)
        return FileBase(partial(self._path, inode), fd, 0)

    def quiesce(self, inode: Inode) -> None:
        """See `MemoryBacking.quiesce`."""
        if isinstance(inode.base, FileBase) and self._path(inode) is not None:
            inode.base.close()

    def release(self, inode: Inode) -> None:
        """See `MemoryBacking.release`."""
        self._stored.pop(inode.ino, None)
        if isinstance(inode.base, FileBase):
            inode.base.close()

    def space(self) -> os.statvfs_result:
        """See `MemoryBacking.space`."""
        return os.statvfs(self.root)

    # -- attributes ----------------------------------------------------------------------

    def attributes_synced(self, inode: Inode) -> None:
        """See `MemoryBacking.attributes_synced`."""
        form = _stored_form(inode)
        if self._stored.get(inode.ino) == form:
            return
        path = self._path(inode)
        if path is not None:
            self._store_attributes(path, inode, form)

    def _store_attributes(self, path: bytes, inode: Inode, form: tuple[object, ...]) -> None:
        attr = inode.synced_attr
        with contextlib.suppress(PermissionError):
            os.chown(path, attr.uid, attr.gid, follow_symlinks=False)
        if not stat.S_ISLNK(attr.mode):
            os.chmod(path, stat.S_IMODE(attr.mode))
        with contextlib.suppress(OSError):
            for name in os.listxattr(path, follow_symlinks=False):
                if name not in inode.synced_xattrs:
                    os.removexattr(path, name, follow_symlinks=False)
            for name, value in inode.synced_xattrs.items():
                os.setxattr(path, name, value, follow_symlinks=False)
        os.utime(path, ns=(attr.atime_ns, attr.mtime_ns), follow_symlinks=False)
        self._stored[inode.ino] = form

    # -- names ---------------------------------------------------------------------------

    def change_names(self, op: NameOp) -> None:
        """See `MemoryBacking.change_names`."""
        paths = [self._child_path(slot.directory, slot.name) for slot in op.slots]
        olds = [slot.directory.synced_entries.get(slot.name) for slot in op.slots]
        for old in olds:
            if old is not None:
                _keep_content(old)
        if len(op.slots) == 2 and self._rename(op, paths, olds):
            return
        for path, old in zip(paths, olds, strict=True):
            if path is not None and old is not None:
                self._remove(path, old)
        for path, slot in zip(paths, op.slots, strict=True):
            if path is not None and slot.inode is not None:
                self._materialise(path, slot.inode)

    def _rename(self, op: NameOp, paths: list[bytes | None], olds: list[Inode | None]) -> bool:
        """Carry out a rename as one, if what moves is there. Returns whether it was."""
        source, target = paths
        first, second = op.slots
        if source is None or target is None:
            return False
        if second.inode is None or olds[0] is not second.inode or olds[1] is second.inode:
            return False
        if op.kind == "exchange":
            if olds[1] is None or olds[1] is not first.inode:
                return False
            _exchange(source, target)
            return True
        if isinstance(olds[1], Directory):
            self._remove(target, olds[1])
        os.rename(source, target)
        return True

    def _remove(self, path: bytes, inode: Inode) -> None:
        if isinstance(inode, Directory):
            for name, child in inode.synced_entries.items():
                self._remove(path + b"/" + name, child)
            os.rmdir(path)
            self._stored.pop(inode.ino, None)
        else:
            os.unlink(path)

    def _materialise(self, path: bytes, inode: Inode) -> None:
        mode = inode.synced_attr.mode
        if isinstance(inode, Directory):
            os.mkdir(path)
            for name, child in inode.synced_entries.items():
                self._materialise(path + b"/" + name, child)
        elif stat.S_ISREG(mode):
            self._link_content(path, inode)
        elif (other := self._path(inode)) is not None and os.path.lexists(other):
            os.link(other, path, follow_symlinks=False)
        elif stat.S_ISLNK(mode):
            os.symlink(inode.target, path)
        else:
            os.mknod(path, mode, inode.synced_attr.rdev)
        self._store_attributes(path, inode, _stored_form(inode))

    def _link_content(self, path: bytes, inode: Inode) -> None:
        if inode.base is None:
            inode.base = self._unnamed_base(inode)
        base = inode.base
        assert isinstance(base, FileBase)
        try:
            # A source descriptor makes os.link follow the link in /proc, as linkat can.
            os.link(f"/proc/self/fd/{base.fd}", path, src_dir_fd=base.fd, follow_symlinks=True)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP):
                raise
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            fd = os.open(path, flags, 0o600)
            for offset in range(0, base.size, _COPY_BYTES):
                os.pwrite(fd, base.read(offset, _COPY_BYTES), offset)
            os.ftruncate(fd, base.size)
            base.replace_fd(fd)

    def _path(self, inode: Inode) -> bytes | None:
        """A path of the inode by synced names; None if the tree does not hold it."""
        if inode.ino == ROOT_INO:
            return self.root
        for directory, name in inode.synced_names:
            path = self._child_path(directory, name)
            if path is not None:
                return path
        return None

    def _child_path(self, directory: Directory, name: bytes) -> bytes | None:
        parent = self._path(directory)
        return None if parent is None else parent + b"/" + name


def _keep_content(inode: Inode) -> None:
    """Open what is about to lose its name: a program or a later operation may still need it."""
    if isinstance(inode, Directory):
        for child in inode.synced_entries.values():
            _keep_content(child)
    elif isinstance(inode.base, FileBase):
        _ = inode.base.fd


def _attr_of(info: os.stat_result) -> Attr:
    return Attr(
        info.st_mode,
        info.st_uid,
        info.st_gid,
        info.st_rdev,
        info.st_atime_ns,
        info.st_mtime_ns,
        info.st_ctime_ns,
    )


def _stored_form(inode: Inode) -> tuple[object, ...]:
    attr = inode.synced_attr
    return (
        attr.mode,
        attr.uid,
        attr.gid,
        attr.atime_ns,
        attr.mtime_ns,
        tuple(sorted(inode.synced_xattrs.items())),
    )


def _exchange(first: bytes, second: bytes) -> None:
    if _libc.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _RENAME_EXCHANGE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
