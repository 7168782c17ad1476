"""The kernel's FUSE protocol, as far as lazyfs speaks it: opcodes, flags and layouts.

Names and numbers are those of the kernel's `include/uapi/linux/fuse.h`; the protocol is part of
the kernel's stable interface. All numbers are in host byte order.
"""

from __future__ import annotations

import stat
import struct

from lazyfs.inode import Inode

MAJOR = 7
MINOR = 38  # what lazyfs speaks; an older or newer kernel settles on the lower of both
MIN_MINOR = 23
MAX_WRITE_BYTES = 1 << 20

IN_HEADER = struct.Struct("=IIQQIIII")  # length, opcode, unique, node, uid, gid, pid, padding
OUT_HEADER = struct.Struct("=IiQ")  # length, error, unique
INIT_IN = struct.Struct("=IIII")  # major, minor, max readahead, flags
INIT_OUT = struct.Struct("=IIIIHHIIHHI28x")
ENTRY_OUT = struct.Struct("=QQQQII")  # node, generation, entry and attr validity
ATTR = struct.Struct("=QQQQQQIIIIIIIIII")
ATTR_VALID = struct.Struct("=QII")
OPEN_OUT = struct.Struct("=QIi")  # handle, open flags, padding
READ_IN = struct.Struct("=QQIIQII")  # handle, offset, size, flags, lock owner, file flags
WRITE_IN = READ_IN
WRITE_OUT = struct.Struct("=II")
FSYNC_IN = struct.Struct("=QII")  # handle, fsync flags
RELEASE_IN = struct.Struct("=QIIQ")
SETATTR_IN = struct.Struct("=IIQQQQQQIIIIIIII")
MKNOD_IN = struct.Struct("=IIII")  # mode, rdev, umask
MKDIR_IN = struct.Struct("=II")  # mode, umask
CREATE_IN = struct.Struct("=IIII")  # flags, mode, umask, open flags
OPEN_IN = struct.Struct("=II")
RENAME_IN = struct.Struct("=Q")  # new directory
RENAME2_IN = struct.Struct("=QII")  # new directory, flags
LINK_IN = struct.Struct("=Q")
XATTR_IN = struct.Struct("=II")  # size, flags
FALLOCATE_IN = struct.Struct("=QQQII")  # handle, offset, length, mode
FORGET_IN = struct.Struct("=Q")
BATCH_FORGET_IN = struct.Struct("=II")
FORGET_ONE = struct.Struct("=QQ")
STATFS_OUT = struct.Struct("=QQQQQIIII24x")
DIRENT = struct.Struct("=QQII")

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK = 1, 2, 3, 4, 5, 6
MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK = 8, 9, 10, 11, 12, 13
OPEN, READ, WRITE, STATFS, RELEASE = 14, 15, 16, 17, 18
FSYNC, SETXATTR, GETXATTR, LISTXATTR, REMOVEXATTR, FLUSH, INIT = 20, 21, 22, 23, 24, 25, 26
OPENDIR, READDIR, RELEASEDIR, FSYNCDIR = 27, 28, 29, 30
CREATE, INTERRUPT, DESTROY, IOCTL, BATCH_FORGET, FALLOCATE, RENAME2 = 35, 36, 38, 39, 42, 43, 45

# INIT flags, first word.
ASYNC_READ = 1 << 0
ATOMIC_O_TRUNC = 1 << 3
BIG_WRITES = 1 << 5
AUTO_INVAL_DATA = 1 << 12
PARALLEL_DIROPS = 1 << 18
MAX_PAGES = 1 << 22
HANDLE_KILLPRIV_V2 = 1 << 28
INIT_EXT = 1 << 30
# INIT flags, second word.
DIRECT_IO_ALLOW_MMAP = 1 << 4

FOPEN_DIRECT_IO = 1 << 0
WRITE_KILL_SUIDGID = 1 << 2
OPEN_KILL_SUIDGID = 1 << 0
FSYNC_FDATASYNC = 1 << 0

FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE = 1, 2, 4, 8
FATTR_ATIME, FATTR_MTIME, FATTR_ATIME_NOW, FATTR_MTIME_NOW = 16, 32, 128, 256
FATTR_CTIME, FATTR_KILL_SUIDGID = 1024, 2048

FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16

_NS = 1_000_000_000
_SECTOR_BYTES = 512
_BLOCK_BYTES = 4096


def attributes(inode: Inode) -> bytes:
    """The kernel's `fuse_attr` of an inode."""
    attr = inode.attr
    atime, atime_ns = divmod(attr.atime_ns, _NS)
    mtime, mtime_ns = divmod(attr.mtime_ns, _NS)
    ctime, ctime_ns = divmod(attr.ctime_ns, _NS)
    size = _BLOCK_BYTES if stat.S_ISDIR(attr.mode) else inode.size
    blocks = -(-size // _SECTOR_BYTES)
    return ATTR.pack(
        inode.ino,
        size,
        blocks,
        atime & (2**64 - 1),
        mtime & (2**64 - 1),
        ctime & (2**64 - 1),
        atime_ns,
        mtime_ns,
        ctime_ns,
        attr.mode,
        inode.link_count,
        attr.uid,
        attr.gid,
        attr.rdev,
        _BLOCK_BYTES,
        0,
    )


def entry(inode: Inode) -> bytes:
    """The reply to a lookup or to making something. Nothing in it may be cached."""
    return ENTRY_OUT.pack(inode.ino, 0, 0, 0, 0, 0) + attributes(inode)


def directory_entry(ino: int, next_offset: int, mode: int, name: bytes) -> bytes:
    """One entry of a directory listing, padded to 8 bytes."""
    head = DIRENT.pack(ino, next_offset, len(name), stat.S_IFMT(mode) >> 12)
    return (head + name).ljust(-(-(DIRENT.size + len(name)) // 8) * 8, b"\0")


def names(body: memoryview, count: int) -> list[bytes]:
    """The `count` names, each ended by a zero byte, at the start of a request body."""
    return bytes(body).split(b"\0", count)[:count]
