"""Answers the kernel's FUSE requests from a `Disk`.

One thread reads, carries out and answers one request after the other: on CPython that is faster
than several threads, and it makes the order of operations, and so every fault and trace, exact.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass

from lazyfs import protocol as fuse
from lazyfs.describe import Request, describe
from lazyfs.errors import refuse
from lazyfs.faults import Faults
from lazyfs.inode import Directory, Inode
from lazyfs.model import Disk
from lazyfs.profiles import PowerLoss

_SYNC_FLAGS = os.O_DSYNC | os.O_SYNC
_SETTABLE_XATTR_MAX_BYTES = 65536


@dataclass(slots=True, eq=False)
class Handle:
    """An open descriptor. `listing` is the directory's content at the time of opening."""

    inode: Inode
    flags: int
    listing: list[tuple[bytes, Inode]] | None = None


class Server:
    """The operations of one mount.

    Args:
        disk: what the requests act on.
        faults: what goes wrong, and when.

    `lock` guards the disk, the handles and the faults; the control threads take it too.
    """

    def __init__(self, disk: Disk, faults: Faults) -> None:
        self.disk = disk
        self.faults = faults
        self.lock = threading.Lock()
        self.direct_io = True
        self._handles: dict[int, Handle] = {}
        self._last_handle = 0
        self._operations: dict[int, Callable[[Request], bytes | None]] = {
            fuse.LOOKUP: self._lookup,
            fuse.FORGET: self._forget,
            fuse.BATCH_FORGET: self._batch_forget,
            fuse.GETATTR: self._getattr,
            fuse.SETATTR: self._setattr,
            fuse.READLINK: self._readlink,
            fuse.SYMLINK: self._symlink,
            fuse.MKNOD: self._mknod,
            fuse.MKDIR: self._mkdir,
            fuse.UNLINK: self._unlink,
            fuse.RMDIR: self._rmdir,
            fuse.RENAME: self._rename,
            fuse.RENAME2: self._rename,
            fuse.LINK: self._link,
            fuse.OPEN: self._open,
            fuse.CREATE: self._create,
            fuse.READ: self._read,
            fuse.WRITE: self._write,
            fuse.STATFS: self._statfs,
            fuse.RELEASE: self._release,
            fuse.RELEASEDIR: self._release,
            fuse.FSYNC: self._fsync,
            fuse.FSYNCDIR: self._fsync,
            fuse.SETXATTR: self._setxattr,
            fuse.GETXATTR: self._getxattr,
            fuse.LISTXATTR: self._listxattr,
            fuse.REMOVEXATTR: self._removexattr,
            fuse.OPENDIR: self._opendir,
            fuse.READDIR: self._readdir,
            fuse.FALLOCATE: self._fallocate,
            fuse.IOCTL: self._ioctl,
            fuse.DESTROY: lambda request: b"",
            fuse.INTERRUPT: lambda request: None,
        }

    def handle(self, request: Request) -> bytes | None:
        """Carry out one request.

        Returns:
            The body of the answer; None if the request has no answer.
        Raises:
            OSError: the error to answer with.
        """
        operation = self._operations.get(request.opcode)
        if operation is None:
            raise refuse(errno.ENOSYS)
        if not self.faults.active:
            with self.lock:
                return operation(request)
        return self._handle_watched(request, operation)

    def _handle_watched(
        self, request: Request, operation: Callable[[Request], bytes | None]
    ) -> bytes | None:
        with self.lock:
            event = describe(self.disk, request)
        if event is None:
            with self.lock:
                return operation(request)
        delay_s = self.faults.delay_s(event)
        if delay_s:
            # Outside the lock: the disk is slow, the control socket is not.
            self.faults.wait(delay_s)
        with self.lock:
            answer: bytes | None = None
            error: OSError | None = None
            try:
                self.faults.before(event)
                answer = operation(request)
            except OSError as failure:
                error = failure
            self.faults.after(event, error)
            if error is not None:
                raise error
            return answer

    def power_loss(self, seed: int | None = None, keep_handles: bool = False) -> PowerLoss:
        """Cut the power; the caller holds the lock.

        Args:
            seed: see `Disk.power_loss`.
            keep_handles: descriptors opened before go on working where their file survived (as
                in LazyFS); otherwise every use of them fails with EIO.
        """
        result = self.disk.power_loss(seed)
        kept = self._handles if keep_handles else {}
        self._handles = {
            number: handle
            for number, handle in kept.items()
            if handle.inode.ino in self.disk.inodes
        }
        for handle in self._handles.values():
            handle.inode.handles += 1
        return result

    # -- nodes and handles ---------------------------------------------------------------

    def _node(self, number: int) -> Inode:
        try:
            return self.disk.inodes[number]
        except KeyError:
            raise refuse(errno.ESTALE) from None

    def _directory(self, number: int) -> Directory:
        node = self._node(number)
        if not isinstance(node, Directory):
            raise refuse(errno.ENOTDIR)
        return node

    def _handle(self, number: int) -> Handle:
        try:
            return self._handles[number]
        except KeyError:
            # The power was cut after it was opened.
            raise refuse(errno.EIO) from None

    def _new_handle(self, inode: Inode, flags: int) -> int:
        self._last_handle += 1
        self._handles[self._last_handle] = Handle(inode, flags)
        inode.handles += 1
        return self._last_handle

    def _entry(self, inode: Inode) -> bytes:
        inode.lookups += 1
        return fuse.entry(inode)

    def _lookup(self, request: Request) -> bytes:
        name = fuse.names(request.body, 1)[0]
        return self._entry(self.disk.lookup(self._directory(request.node), name))

    def _forget(self, request: Request) -> None:
        self._forget_one(request.node, fuse.FORGET_IN.unpack_from(request.body)[0])

    def _batch_forget(self, request: Request) -> None:
        count, _ = fuse.BATCH_FORGET_IN.unpack_from(request.body)
        for index in range(count):
            offset = fuse.BATCH_FORGET_IN.size + index * fuse.FORGET_ONE.size
            self._forget_one(*fuse.FORGET_ONE.unpack_from(request.body, offset))

    def _forget_one(self, number: int, count: int) -> None:
        inode = self.disk.inodes.get(number)
        if inode is not None:
            inode.lookups = max(0, inode.lookups - count)
            self.disk.drop_if_unused(inode)

    # -- attributes ----------------------------------------------------------------------

    def _getattr(self, request: Request) -> bytes:
        return fuse.ATTR_VALID.pack(0, 0, 0) + fuse.attributes(self._node(request.node))

    def _setattr(self, request: Request) -> bytes:
        inode = self._node(request.node)
        (valid, _, _, size, _, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, _, uid, gid,
         _) = fuse.SETATTR_IN.unpack_from(request.body)  # fmt: skip
        if valid & fuse.FATTR_SIZE:
            if not inode.is_file:
                raise refuse(errno.EISDIR)
            self.disk.truncate(inode, size)
        changes: dict[str, int] = {}
        if valid & fuse.FATTR_MODE:
            changes["mode"] = stat.S_IFMT(inode.attr.mode) | stat.S_IMODE(mode)
        if valid & fuse.FATTR_KILL_SUIDGID:
            changes["mode"] = _without_suid(changes.get("mode", inode.attr.mode))
        if valid & fuse.FATTR_UID:
            changes["uid"] = uid
        if valid & fuse.FATTR_GID:
            changes["gid"] = gid
        now = self.disk.clock_ns()
        if valid & fuse.FATTR_ATIME:
            explicit = _nanoseconds(atime, atime_ns)
            changes["atime_ns"] = now if valid & fuse.FATTR_ATIME_NOW else explicit
        if valid & fuse.FATTR_MTIME:
            explicit = _nanoseconds(mtime, mtime_ns)
            changes["mtime_ns"] = now if valid & fuse.FATTR_MTIME_NOW else explicit
        if valid & fuse.FATTR_CTIME:
            changes["ctime_ns"] = _nanoseconds(ctime, ctime_ns)
        if changes:
            self.disk.set_attr(inode, **changes)
        return self._getattr(request)

    def _statfs(self, request: Request) -> bytes:
        space = self.disk.space()
        return fuse.STATFS_OUT.pack(
            space.blocks,
            space.free,
            space.free,
            space.files,
            space.files_free,
            space.block_bytes,
            255,
            space.fragment_bytes,
            0,
        )

    # -- names ---------------------------------------------------------------------------

    def _readlink(self, request: Request) -> bytes:
        return self._node(request.node).target

    def _symlink(self, request: Request) -> bytes:
        name, target = fuse.names(request.body, 2)
        parent = self._directory(request.node)
        mode = stat.S_IFLNK | 0o777
        return self._entry(
            self.disk.create(parent, name, mode, request.uid, request.gid, target=target)
        )

    def _mknod(self, request: Request) -> bytes:
        mode, rdev, _, _ = fuse.MKNOD_IN.unpack_from(request.body)
        name = fuse.names(request.body[fuse.MKNOD_IN.size :], 1)[0]
        parent = self._directory(request.node)
        return self._entry(self.disk.create(parent, name, mode, request.uid, request.gid, rdev))

    def _mkdir(self, request: Request) -> bytes:
        mode, _ = fuse.MKDIR_IN.unpack_from(request.body)
        name = fuse.names(request.body[fuse.MKDIR_IN.size :], 1)[0]
        parent = self._directory(request.node)
        mode = stat.S_IFDIR | stat.S_IMODE(mode)
        return self._entry(self.disk.create(parent, name, mode, request.uid, request.gid))

    def _unlink(self, request: Request) -> bytes:
        self.disk.unlink(self._directory(request.node), fuse.names(request.body, 1)[0])
        return b""

    def _rmdir(self, request: Request) -> bytes:
        self.disk.rmdir(self._directory(request.node), fuse.names(request.body, 1)[0])
        return b""

    def _rename(self, request: Request) -> bytes:
        flags = 0
        head = fuse.RENAME_IN.size
        new_directory = fuse.RENAME_IN.unpack_from(request.body)[0]
        if request.opcode == fuse.RENAME2:
            new_directory, flags, _ = fuse.RENAME2_IN.unpack_from(request.body)
            head = fuse.RENAME2_IN.size
        name, new_name = fuse.names(request.body[head:], 2)
        self.disk.rename(
            self._directory(request.node), name, self._directory(new_directory), new_name, flags
        )
        return b""

    def _link(self, request: Request) -> bytes:
        inode = self._node(fuse.LINK_IN.unpack_from(request.body)[0])
        name = fuse.names(request.body[fuse.LINK_IN.size :], 1)[0]
        self.disk.link(inode, self._directory(request.node), name)
        return self._entry(inode)

    def _opendir(self, request: Request) -> bytes:
        return fuse.OPEN_OUT.pack(self._new_handle(self._directory(request.node), 0), 0, 0)

    def _readdir(self, request: Request) -> bytes:
        number, offset, size, *_ = fuse.READ_IN.unpack_from(request.body)
        handle = self._handle(number)
        directory = handle.inode
        assert isinstance(directory, Directory)
        if handle.listing is None or offset == 0:
            parent = next(directory.ancestors(), directory)
            dots: list[tuple[bytes, Inode]] = [(b".", directory), (b"..", parent)]
            handle.listing = dots + list(directory.entries.items())
        answer = bytearray()
        for index in range(offset, len(handle.listing)):
            name, inode = handle.listing[index]
            item = fuse.directory_entry(inode.ino, index + 1, inode.attr.mode, name)
            if len(answer) + len(item) > size:
                break
            answer += item
        return bytes(answer)

    # -- files ---------------------------------------------------------------------------

    def _open(self, request: Request) -> bytes:
        flags, open_flags = fuse.OPEN_IN.unpack_from(request.body)
        inode = self._node(request.node)
        if flags & os.O_TRUNC and inode.is_file:
            if inode.size:
                self.disk.truncate(inode, 0)
            if open_flags & fuse.OPEN_KILL_SUIDGID:
                self._drop_suid(inode)
        return self._opened(inode, flags)

    def _opened(self, inode: Inode, flags: int) -> bytes:
        fopen = fuse.FOPEN_DIRECT_IO if self.direct_io else 0
        return fuse.OPEN_OUT.pack(self._new_handle(inode, flags), fopen, 0)

    def _create(self, request: Request) -> bytes:
        flags, mode, _, _ = fuse.CREATE_IN.unpack_from(request.body)
        name = fuse.names(request.body[fuse.CREATE_IN.size :], 1)[0]
        parent = self._directory(request.node)
        mode = stat.S_IFREG | stat.S_IMODE(mode)
        inode = self.disk.create(parent, name, mode, request.uid, request.gid)
        return self._entry(inode) + self._opened(inode, flags)

    def _read(self, request: Request) -> bytes:
        number, offset, size, *_ = fuse.READ_IN.unpack_from(request.body)
        return self.disk.read(self._handle(number).inode, offset, size)

    def _write(self, request: Request) -> bytes:
        number, offset, size, write_flags, _, flags, _ = fuse.WRITE_IN.unpack_from(request.body)
        inode = self._handle(number).inode
        data = bytes(request.body[fuse.WRITE_IN.size : fuse.WRITE_IN.size + size])
        if flags & os.O_APPEND:
            offset = inode.size
        written = self.disk.write(inode, offset, data)
        if write_flags & fuse.WRITE_KILL_SUIDGID:
            self._drop_suid(inode)
        if flags & _SYNC_FLAGS:
            self.disk.sync(inode, data_only=not flags & (os.O_SYNC & ~os.O_DSYNC))
        return fuse.WRITE_OUT.pack(written, 0)

    def _drop_suid(self, inode: Inode) -> None:
        mode = _without_suid(inode.attr.mode)
        if mode != inode.attr.mode:
            self.disk.set_attr(inode, mode=mode)

    def _fsync(self, request: Request) -> bytes:
        number, flags, _ = fuse.FSYNC_IN.unpack_from(request.body)
        inode = self._handle(number).inode
        self.disk.sync(inode, data_only=bool(flags & fuse.FSYNC_FDATASYNC))
        return b""

    def _release(self, request: Request) -> bytes:
        handle = self._handles.pop(fuse.RELEASE_IN.unpack_from(request.body)[0], None)
        if handle is not None:
            handle.inode.handles -= 1
            self.disk.drop_if_unused(handle.inode)
        return b""

    def _fallocate(self, request: Request) -> bytes:
        number, offset, length, mode, _ = fuse.FALLOCATE_IN.unpack_from(request.body)
        inode = self._handle(number).inode
        extend = not mode & fuse.FALLOC_KEEP_SIZE
        kind = mode & ~fuse.FALLOC_KEEP_SIZE
        if kind == fuse.FALLOC_PUNCH_HOLE and not extend:
            self.disk.zero(inode, offset, length, extend=False)
        elif kind == fuse.FALLOC_ZERO_RANGE:
            self.disk.zero(inode, offset, length, extend=extend)
        elif kind:
            raise refuse(errno.EOPNOTSUPP)
        elif extend:
            self.disk.allocate(inode, offset, length)
        return b""

    def _ioctl(self, request: Request) -> bytes:
        raise refuse(errno.ENOTTY)

    # -- extended attributes -------------------------------------------------------------

    def _setxattr(self, request: Request) -> bytes:
        size, flags = fuse.XATTR_IN.unpack_from(request.body)
        name, value = bytes(request.body[fuse.XATTR_IN.size :]).split(b"\0", 1)
        inode = self._node(request.node)
        text = os.fsdecode(name)
        if flags & os.XATTR_CREATE and text in inode.xattrs:
            raise refuse(errno.EEXIST)
        if flags & os.XATTR_REPLACE and text not in inode.xattrs:
            raise refuse(errno.ENODATA)
        if size > _SETTABLE_XATTR_MAX_BYTES:
            raise refuse(errno.E2BIG)
        self.disk.set_xattr(inode, text, value[:size])
        return b""

    def _getxattr(self, request: Request) -> bytes:
        size, _ = fuse.XATTR_IN.unpack_from(request.body)
        name = os.fsdecode(fuse.names(request.body[fuse.XATTR_IN.size :], 1)[0])
        value = self._node(request.node).xattrs.get(name)
        if value is None:
            raise refuse(errno.ENODATA)
        return _sized(value, size)

    def _listxattr(self, request: Request) -> bytes:
        size, _ = fuse.XATTR_IN.unpack_from(request.body)
        xattrs = self._node(request.node).xattrs
        return _sized(b"".join(os.fsencode(name) + b"\0" for name in xattrs), size)

    def _removexattr(self, request: Request) -> bytes:
        name = os.fsdecode(fuse.names(request.body, 1)[0])
        inode = self._node(request.node)
        if name not in inode.xattrs:
            raise refuse(errno.ENODATA)
        self.disk.set_xattr(inode, name, None)
        return b""


def _without_suid(mode: int) -> int:
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def _nanoseconds(seconds: int, nanoseconds: int) -> int:
    signed = seconds - (1 << 64) if seconds >> 63 else seconds
    return signed * 1_000_000_000 + nanoseconds


def _sized(value: bytes, size: int) -> bytes:
    if size == 0:
        return fuse.XATTR_IN.pack(len(value), 0)
    if len(value) > size:
        raise refuse(errno.ERANGE)
    return value
