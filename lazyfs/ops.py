"""The pending operations a disk can lose: on the content of one inode, and on names.

Both are plain values. What they do to content is in `content`, when they become durable is
decided by `model`, and which of them survive a power loss by `profiles`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lazyfs.inode import Directory, Inode


class Write(NamedTuple):
    """`data` at `offset`; extends the file where it ends behind it."""

    offset: int
    data: bytes


class Truncate(NamedTuple):
    """The file is `size` bytes long: cut, or extended with zeros."""

    size: int


class Allocate(NamedTuple):
    """Space for the range; extends the size to its end."""

    offset: int
    length: int


class Zero(NamedTuple):
    """The range reads as zeros (punched or zeroed); `extend` lets it grow the file."""

    offset: int
    length: int
    extend: bool


class SetAttr(NamedTuple):
    """Mode, owner or times were set: pairs of field name and value."""

    changes: tuple[tuple[str, int], ...]


class SetXattr(NamedTuple):
    """An extended attribute was set, or removed when `value` is None."""

    name: str
    value: bytes | None


DataOp = Write | Truncate | Allocate | Zero | SetAttr | SetXattr


class Slot(NamedTuple):
    """What one name of one directory refers to after an operation; None is no such name."""

    directory: Directory
    name: bytes
    inode: Inode | None


class NameOp(NamedTuple):
    """One operation on names. All its slots change together or not at all.

    Attributes:
        kind: create, link, symlink, mkdir, mknod, rename, exchange, unlink or rmdir.
        slots: the names it changes; two of them for a rename, which may span directories.
        moves_directory: it moves a directory to another parent or name.
    """

    kind: str
    slots: tuple[Slot, ...]
    moves_directory: bool


def dependency_closure(journal: list[NameOp], wanted: set[int]) -> list[int]:
    """The operations that have to be durable before the wanted ones can be.

    An operation depends on every earlier one that changes one of its names, and a move of a
    directory depends on every earlier move of a directory (so that no directory ever comes to
    have two parents, or itself for an ancestor).

    Args:
        journal: pending name operations, oldest first.
        wanted: indexes into it.
    Returns:
        The wanted indexes and all they depend on, in order.
    """
    needed: set[tuple[int, bytes]] = set()
    needs_moves = False
    kept: list[int] = []
    for index in range(len(journal) - 1, -1, -1):
        op = journal[index]
        keys = [(slot.directory.ino, slot.name) for slot in op.slots]
        depended_on = any(key in needed for key in keys) or (needs_moves and op.moves_directory)
        if index in wanted or depended_on:
            kept.append(index)
            needed.update(keys)
            needs_moves = needs_moves or op.moves_directory
    kept.reverse()
    return kept


def count_pending_names(op: NameOp, step: int) -> None:
    """One more (`step` 1) or one less (-1) pending operation names the inodes of `op`."""
    for slot in op.slots:
        if slot.inode is not None:
            slot.inode.pending_names += step


def set_names(op: NameOp, synced: bool) -> None:
    """Change all slots of an operation together, in the current or in the synced state."""
    for directory, name, _ in op.slots:
        entries = directory.synced_entries if synced else directory.entries
        old = entries.pop(name, None)
        if old is not None:
            (old.synced_names if synced else old.names).discard((directory, name))
    for directory, name, inode in op.slots:
        if inode is not None:
            if synced:
                directory.synced_entries[name] = inode
                inode.synced_names.add((directory, name))
            else:
                directory.entries[name] = inode
                inode.names.add((directory, name))
