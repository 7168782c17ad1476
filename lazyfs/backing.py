"""Where the synced state lives: nowhere but in memory (the pure model), or in a directory."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lazyfs.content import Base, MemoryBase
from lazyfs.inode import Directory, Inode
from lazyfs.ops import NameOp


@dataclass(frozen=True)
class Space:
    """Space of a disk, in fragments of `fragment_bytes`; a quota has fragments of one byte."""

    blocks: int
    free: int
    files: int
    files_free: int
    block_bytes: int
    fragment_bytes: int


class MemoryBacking:
    """Keeps synced content in memory. The synced names are in the inodes themselves."""

    def load(self, root: Directory) -> int:
        """Fill the tree with what is stored. Returns the highest inode number used."""
        return root.ino

    def new_base(self, inode: Inode) -> Base:
        """An empty synced content for a file that is synced for the first time."""
        return MemoryBase()

    def change_names(self, op: NameOp) -> None:
        """Called just before the synced names change as `op` says."""

    def attributes_synced(self, inode: Inode) -> None:
        """The synced attributes of an inode changed."""

    def release(self, inode: Inode) -> None:
        """Nothing refers to the inode any more."""

    def quiesce(self, inode: Inode) -> None:
        """No descriptor is open on the inode: resources may be given back."""

    def space(self) -> os.statvfs_result:
        """Space and inodes of what the disk is kept in."""
        return os.statvfs("/")
