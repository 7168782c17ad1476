"""The disk: what is synced, what is pending, and what a power loss leaves. No FUSE in here.

Every inode has a synced state and a list of pending operations; names have a synced state in each
directory and one journal of pending name operations. A sync moves pending operations to the
synced state, a power loss applies the survivors that the profile chooses and drops the rest.
Callers hold one lock around each call; nothing here blocks.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import time
from collections.abc import Callable

from lazyfs.backing import MemoryBacking, Space
from lazyfs.errors import refuse
from lazyfs.inode import ROOT_INO, Attr, Directory, Inode, check_replaceable, paths_of
from lazyfs.ops import (
    Allocate,
    DataOp,
    NameOp,
    SetAttr,
    SetXattr,
    Slot,
    Truncate,
    Write,
    Zero,
    count_pending_names,
    dependency_closure,
    set_names,
)
from lazyfs.profiles import PowerLoss, Profile, surviving_data, survivors_of_names

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
NAME_MAX = 255


class Disk:
    """A disk with one file system on it.

    Args:
        profile: what survives a power loss.
        backing: where the synced state is kept.
        seed: the choices of the first power loss; each further one uses the next number.
        clock_ns: the time, for time stamps.
    """

    def __init__(
        self,
        profile: Profile,
        backing: MemoryBacking | None = None,
        seed: int = 0,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.profile = profile
        self.backing = backing or MemoryBacking()
        self.seed = seed
        self.clock_ns = clock_ns
        self.quota_bytes: int | None = None
        now = clock_ns()
        attr = Attr(stat.S_IFDIR | 0o755, 0, 0, 0, now, now, now)
        self.root = Directory(ROOT_INO, attr, attr.copy())
        self.inodes: dict[int, Inode] = {ROOT_INO: self.root}
        self.journal: list[NameOp] = []
        self.dirty: dict[int, Inode] = {}
        self._last_ino = ROOT_INO
        self._load()

    def set_profile(self, profile: Profile) -> None:
        """Use another profile; names it makes durable at once no longer are pending."""
        self.profile = profile
        if profile.names_durable == "at-once":
            self._commit(range(len(self.journal)))

    # -- looking -------------------------------------------------------------------------

    def lookup(self, parent: Directory, name: bytes) -> Inode:
        """The inode a name refers to. Raises ENOENT."""
        if len(name) > NAME_MAX:
            raise refuse(errno.ENAMETOOLONG)
        try:
            return parent.entries[name]
        except KeyError:
            raise refuse(errno.ENOENT) from None

    def resolve(self, path: str | bytes) -> Inode:
        """The inode at a path relative to the root; symbolic links are not followed."""
        node: Inode = self.root
        for name in os.fsencode(path).split(b"/"):
            if name:
                if not isinstance(node, Directory):
                    raise refuse(errno.ENOTDIR)
                node = self.lookup(node, name)
        return node

    def read(self, inode: Inode, offset: int, length: int) -> bytes:
        """At most `length` bytes of the current content."""
        return inode.view.read(inode.base, offset, length)

    # -- content and attributes ----------------------------------------------------------

    def write(self, inode: Inode, offset: int, data: bytes) -> int:
        """Write `data` at `offset`; it is pending until the inode is synced.

        Returns:
            Bytes written: fewer than given when the quota ends within them.
        """
        if self.quota_bytes is not None and offset + len(data) > inode.size:
            room = self._room_for(inode)
            if offset >= room and data:
                raise refuse(errno.ENOSPC)
            data = data[: room - offset]
        self._change(inode, Write(offset, data))
        return len(data)

    def truncate(self, inode: Inode, size: int) -> None:
        """Set the size in bytes."""
        self._check_room(inode, size)
        self._change(inode, Truncate(size))

    def allocate(self, inode: Inode, offset: int, length: int) -> None:
        """Reserve space and extend the size to its end (fallocate, mode 0)."""
        self._check_room(inode, offset + length)
        self._change(inode, Allocate(offset, length))

    def zero(self, inode: Inode, offset: int, length: int, extend: bool) -> None:
        """Make a range read as zeros (punch hole, zero range)."""
        if extend:
            self._check_room(inode, offset + length)
        self._change(inode, Zero(offset, length, extend))

    def used_bytes(self) -> int:
        """Bytes of all files with a name or an open descriptor, by size: what a quota counts."""
        return sum(
            inode.view.size for inode in self.inodes.values() if inode.names or inode.handles
        )

    def space(self) -> Space:
        """What statvfs tells: of the quota if there is one, else of the backing."""
        below = self.backing.space()
        if self.quota_bytes is None:
            return Space(
                below.f_blocks,
                below.f_bavail,
                below.f_files,
                below.f_ffree,
                below.f_bsize,
                below.f_frsize,
            )
        free = max(0, self.quota_bytes - self.used_bytes())
        return Space(self.quota_bytes, free, below.f_files, below.f_ffree, 4096, 1)

    def _room_for(self, inode: Inode) -> int:
        """The size in bytes the inode can grow to."""
        assert self.quota_bytes is not None
        return max(inode.size, inode.size + self.quota_bytes - self.used_bytes())

    def _check_room(self, inode: Inode, size: int) -> None:
        if self.quota_bytes is not None and inode.size < size > self._room_for(inode):
            raise refuse(errno.ENOSPC)

    def set_attr(self, inode: Inode, **changes: int) -> None:
        """Set fields of `Attr`; pending until the inode is synced."""
        changes.setdefault("ctime_ns", self.clock_ns())
        inode.add_pending(SetAttr(tuple(changes.items())))
        self.dirty[inode.ino] = inode

    def set_xattr(self, inode: Inode, name: str, value: bytes | None) -> None:
        """Set an extended attribute, or remove it when `value` is None."""
        inode.add_pending(SetXattr(name, value))
        self.dirty[inode.ino] = inode

    def _change(self, inode: Inode, op: DataOp) -> None:
        inode.add_pending(op)
        self.dirty[inode.ino] = inode
        attr = inode.attr
        attr.mtime_ns = attr.ctime_ns = max(self.clock_ns(), attr.mtime_ns + 1)

    # -- names ---------------------------------------------------------------------------

    def create(
        self,
        parent: Directory,
        name: bytes,
        mode: int,
        uid: int = 0,
        gid: int = 0,
        rdev: int = 0,
        target: bytes = b"",
    ) -> Inode:
        """Make a file, directory, symbolic link or special file, as the type in `mode` says."""
        self._check_new_name(parent, name)
        now = self.clock_ns()
        if parent.attr.mode & stat.S_ISGID:
            gid = parent.attr.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        attr = Attr(mode, uid, gid, rdev, now, now, now)
        self._last_ino += 1
        is_directory = stat.S_ISDIR(mode)
        kind = Directory if is_directory else Inode
        inode = kind(self._last_ino, attr, attr.copy(), target=target)
        self.inodes[inode.ino] = inode
        verb = "mkdir" if is_directory else "symlink" if target else "create"
        self._names(NameOp(verb, (Slot(parent, name, inode),), False))
        return inode

    def link(self, inode: Inode, parent: Directory, name: bytes) -> None:
        """Give an existing file another name."""
        if inode.is_directory:
            raise refuse(errno.EPERM)
        self._check_new_name(parent, name)
        if not inode.names:
            raise refuse(errno.ENOENT)
        self._names(NameOp("link", (Slot(parent, name, inode),), False))

    def unlink(self, parent: Directory, name: bytes) -> None:
        """Remove the name of something that is not a directory."""
        if self.lookup(parent, name).is_directory:
            raise refuse(errno.EISDIR)
        self._names(NameOp("unlink", (Slot(parent, name, None),), False))

    def rmdir(self, parent: Directory, name: bytes) -> None:
        """Remove an empty directory."""
        inode = self.lookup(parent, name)
        if not isinstance(inode, Directory):
            raise refuse(errno.ENOTDIR)
        if inode.entries:
            raise refuse(errno.ENOTEMPTY)
        self._names(NameOp("rmdir", (Slot(parent, name, None),), False))

    def rename(
        self, parent: Directory, name: bytes, new_parent: Directory, new_name: bytes, flags: int = 0
    ) -> None:
        """Move a name, replacing the target; with RENAME_NOREPLACE or RENAME_EXCHANGE not so."""
        if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise refuse(errno.EINVAL)
        self._check_alive(new_parent)
        inode = self.lookup(parent, name)
        other = new_parent.entries.get(new_name)
        if len(new_name) > NAME_MAX:
            raise refuse(errno.ENAMETOOLONG)
        if inode is new_parent or any(inode is above for above in new_parent.ancestors()):
            raise refuse(errno.EINVAL)
        if flags == RENAME_EXCHANGE:
            self._exchange(Slot(parent, name, inode), new_parent, new_name, other)
            return
        if other is not None:
            if flags == RENAME_NOREPLACE:
                raise refuse(errno.EEXIST)
            if other is inode:
                return
            check_replaceable(inode, other)
        slots = (Slot(parent, name, None), Slot(new_parent, new_name, inode))
        self._names(NameOp("rename", slots, inode.is_directory))

    def _exchange(
        self, source: Slot, new_parent: Directory, new_name: bytes, other: Inode | None
    ) -> None:
        if other is None or source.inode is None:
            raise refuse(errno.ENOENT)
        if other is source.directory or any(
            other is above for above in source.directory.ancestors()
        ):
            raise refuse(errno.EINVAL)
        if other is source.inode:
            return
        slots = (
            Slot(source.directory, source.name, other),
            Slot(new_parent, new_name, source.inode),
        )
        moves_directory = source.inode.is_directory or other.is_directory
        self._names(NameOp("exchange", slots, moves_directory))

    def _check_new_name(self, parent: Directory, name: bytes) -> None:
        if len(name) > NAME_MAX:
            raise refuse(errno.ENAMETOOLONG)
        if name in parent.entries:
            raise refuse(errno.EEXIST)
        self._check_alive(parent)

    def _check_alive(self, directory: Directory) -> None:
        if not directory.names and directory is not self.root:
            raise refuse(errno.ENOENT)

    def _names(self, op: NameOp) -> None:
        """Change the current names; durable now or later, as the profile says."""
        now = self.clock_ns()
        replaced = [slot.directory.entries.get(slot.name) for slot in op.slots]
        set_names(op, synced=False)
        for slot in op.slots:
            attr = slot.directory.attr
            attr.mtime_ns = attr.ctime_ns = max(now, attr.mtime_ns + 1)
            if slot.inode is not None:
                slot.inode.attr.ctime_ns = now
        if self.profile.names_durable == "at-once":
            self._make_names_durable(op)
        else:
            self.journal.append(op)
            count_pending_names(op, 1)
        for inode in replaced:
            if inode is not None:
                inode.attr.ctime_ns = now
                self.drop_if_unused(inode)

    def _make_names_durable(self, op: NameOp) -> None:
        replaced = [slot.directory.synced_entries.get(slot.name) for slot in op.slots]
        self.backing.change_names(op)
        set_names(op, synced=True)
        for inode in replaced:
            if inode is not None:
                self.drop_if_unused(inode)

    # -- sync ----------------------------------------------------------------------------

    def sync(self, inode: Inode, data_only: bool = False) -> None:
        """fsync or fdatasync of one inode; for a directory, of its names.

        Args:
            inode: a file or a directory.
            data_only: fdatasync: the time stamps need not become durable.
        """
        if self.profile.ignored_syncs and self.profile.ignores_sync(paths_of(inode)):
            return
        if isinstance(inode, Directory):
            self._sync_directory(inode)
        elif self.profile.names_durable == "journal" and self.journal and _needs_journal(inode):
            self._commit(range(len(self.journal)))
        self._sync_pending(inode, data_only)

    def sync_all(self) -> None:
        """sync: everything is durable."""
        self._commit(range(len(self.journal)))
        for inode in list(self.dirty.values()):
            self._sync_pending(inode, data_only=False)

    def _sync_directory(self, directory: Directory) -> None:
        if not self.journal:
            return
        if self.profile.names_durable == "journal":
            self._commit(range(len(self.journal)))
            return
        touching = {
            index
            for index, op in enumerate(self.journal)
            if any(slot.directory is directory for slot in op.slots)
        }
        if touching:
            self._commit(dependency_closure(self.journal, touching))

    def _commit(self, indexes: range | list[int]) -> None:
        chosen = set(indexes)
        for index in indexes:
            count_pending_names(self.journal[index], -1)
            self._make_names_durable(self.journal[index])
        self.journal = [op for index, op in enumerate(self.journal) if index not in chosen]

    def _sync_pending(self, inode: Inode, data_only: bool) -> None:
        if inode.pending:
            self._apply(inode, inode.pending)
            inode.pending.clear()
            inode.pending_bytes = 0
            if not inode.ghost:
                inode.view.reset(inode.synced_size)
            self.dirty.pop(inode.ino, None)
        synced, attr = inode.synced_attr, inode.attr
        synced.atime_ns, synced.mtime_ns = attr.atime_ns, attr.mtime_ns
        synced.ctime_ns = attr.ctime_ns
        if not data_only:
            self.backing.attributes_synced(inode)

    def _apply(self, inode: Inode, ops: list[DataOp]) -> None:
        if inode.base is None and inode.is_file:
            inode.base = self.backing.new_base(inode)
        attributes = False
        for op in ops:
            inode.make_synced(op)
            attributes = attributes or isinstance(op, SetAttr | SetXattr)
        if attributes:
            self.backing.attributes_synced(inode)

    # -- failed syncs --------------------------------------------------------------------

    def fail_sync(self, inode: Inode, aftermath: str) -> None:
        """What is left of the pending operations when a sync of the inode fails.

        Args:
            inode: whose sync fails.
            aftermath: "kept": they stay pending; "dropped": they are still seen but no later
                sync writes them; "reverted": the content is the synced one again.
        """
        if aftermath == "reverted":
            inode.revert()
            self.dirty.pop(inode.ino, None)
        elif aftermath == "dropped":
            inode.ghost = inode.ghost or bool(inode.pending)
            inode.pending.clear()
            inode.pending_bytes = 0

    # -- power loss ----------------------------------------------------------------------

    def power_loss(self, seed: int | None = None) -> PowerLoss:
        """Lose power: survivors become durable, everything else is gone, and the disk is up again.

        Args:
            seed: for the profile's choices; by default the next of the disk's own.
        """
        if seed is None:
            seed = self.seed
            self.seed += 1
        rng = random.Random(seed)
        sector_bytes = rng.choice(self.profile.sector_bytes)
        names = survivors_of_names(self.profile, self.journal, rng)
        name_ops_pending = len(self.journal)
        for index in names:
            self._make_names_durable(self.journal[index])
        self.journal = []
        data_pending = data_lost = bytes_pending = files_changed = 0
        for ino in sorted(self.dirty):
            inode = self.dirty[ino]
            survivors = surviving_data(self.profile, inode.pending, sector_bytes, rng)
            survivor_ids = {id(op) for op in survivors}
            kept = sum(id(op) in survivor_ids for op in inode.pending)
            bytes_pending += inode.pending_bytes
            data_pending += len(inode.pending)
            data_lost += len(inode.pending) - kept
            files_changed += kept < len(inode.pending)
            if survivors:
                self._apply(inode, survivors)
        self.dirty.clear()
        self._restart()
        return PowerLoss(
            seed,
            sector_bytes,
            data_pending,
            data_lost,
            name_ops_pending,
            name_ops_pending - len(names),
            bytes_pending,
            files_changed,
        )

    def _restart(self) -> None:
        """The current state is the synced one, and nothing unreachable is left."""
        reachable: dict[int, Inode] = {ROOT_INO: self.root}
        todo: list[Directory] = [self.root]
        for inode in self.inodes.values():
            inode.names.clear()
            inode.pending_names = inode.handles = 0
        while todo:
            directory = todo.pop()
            directory.entries = dict(directory.synced_entries)
            for name, child in directory.entries.items():
                child.names.add((directory, name))
                if child.ino not in reachable:
                    reachable[child.ino] = child
                    if isinstance(child, Directory):
                        todo.append(child)
        gone = [inode for ino, inode in self.inodes.items() if ino not in reachable]
        self.inodes = reachable
        for inode in gone:
            self.backing.release(inode)
        for inode in reachable.values():
            inode.revert()
            self.backing.quiesce(inode)

    def drop_if_unused(self, inode: Inode) -> None:
        """Forget an inode that no name, descriptor or kernel reference can reach any more."""
        if inode.handles == 0 and not inode.pending:
            self.backing.quiesce(inode)
        if inode.referenced or inode is self.root:
            return
        self.inodes.pop(inode.ino, None)
        self.dirty.pop(inode.ino, None)
        self.backing.release(inode)

    def _load(self) -> None:
        self._last_ino = self.backing.load(self.root)
        todo: list[Inode] = [self.root]
        while todo:
            inode = todo.pop()
            self.inodes[inode.ino] = inode
            if isinstance(inode, Directory):
                inode.entries = dict(inode.synced_entries)
                for name, child in inode.entries.items():
                    child.names.add((inode, name))
                    child.synced_names.add((inode, name))
                todo.extend(inode.entries.values())


def _needs_journal(inode: Inode) -> bool:
    """Whether a sync has to make more durable than data: a name, a size or an attribute."""
    if inode.names != inode.synced_names or inode.view.size != inode.synced_size:
        return True
    return any(isinstance(op, SetAttr | SetXattr) for op in inode.pending)
