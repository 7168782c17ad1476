"""What may survive a power loss: each profile is data with a stated contract.

`survivors_of_names` and `surviving_data` are the only places that interpret the data. Both are
pure: the same pending operations, profile and random state give the same result.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from lazyfs.errors import ConfigError
from lazyfs.ops import Allocate, DataOp, NameOp, Write


@dataclass(frozen=True)
class PowerLoss:
    """What one power loss did.

    Attributes:
        seed: what its choices were drawn from.
        sector_bytes: the sector size that torn writes were cut at.
        data_ops_pending, data_ops_lost: operations on content and attributes.
        name_ops_pending, name_ops_lost: operations on names.
        bytes_pending: bytes of the pending writes.
        files_changed: files whose pending operations were not all kept.
    """

    seed: int
    sector_bytes: int
    data_ops_pending: int
    data_ops_lost: int
    name_ops_pending: int
    name_ops_lost: int
    bytes_pending: int
    files_changed: int


@dataclass(frozen=True)
class Profile:
    """One kind of disk and file system.

    Attributes:
        name: how it is chosen.
        contract: what it promises, in one paragraph; shown by `lazyfs profiles` and the docs.
        names_durable: "at-once"; "directory-sync" (sync of a directory makes its names durable);
            or "journal" (so does a sync of an inode with un-synced names or size, for all names).
        names_survive: "none", "prefix" (of all pending name operations) or "closed-subset".
        data_survives: "none", "prefix" (per inode) or "sectors" (any subset, torn by sectors).
        sector_bytes: sector sizes one of which is drawn for each power loss.
        ignored_syncs: file name globs, relative to the mount, whose syncs report success and do
            nothing.
    """

    name: str
    contract: str
    names_durable: str
    names_survive: str = "none"
    data_survives: str = "none"
    sector_bytes: tuple[int, ...] = (512, 4096)
    ignored_syncs: tuple[str, ...] = ()

    def ignores_sync(self, paths: list[str]) -> bool:
        """Whether a sync of the file with these paths (relative, no leading slash) is a lie."""
        return any(fnmatchcase(path, glob) for path in paths for glob in self.ignored_syncs)


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            name="lazyfs",
            contract=(
                "Content that was not synced is lost. Names (create, rename, link, unlink, mkdir, "
                "rmdir) are durable at once, so a missing directory sync goes unseen: the "
                "behaviour of LazyFS."
            ),
            names_durable="at-once",
        ),
        Profile(
            name="posix-strict",
            contract=(
                "Nothing survives that was not synced, names included: a name is durable when "
                "its directory was synced, a file's content when the file was. A rename is "
                "durable on both sides when either directory was synced."
            ),
            names_durable="directory-sync",
        ),
        Profile(
            name="ext4-ordered",
            contract=(
                "Names are journalled: a prefix of the pending name operations survives, in the "
                "order in which they were issued. Sync of a file whose name or size was not yet "
                "durable commits the journal, so a new file that was synced keeps its name. Of "
                "un-synced content a prefix survives, per file; a size is never ahead of its "
                "data. Delayed allocation without the replace-by-rename heuristic: a rename may "
                "survive whose content does not."
            ),
            names_durable="journal",
            names_survive="prefix",
            data_survives="prefix",
        ),
        Profile(
            name="random",
            contract=(
                "Any subset of the pending operations survives. Operations on the same name keep "
                "their order, as do moves of directories; a rename survives on both sides or on "
                "none. A write is lost, kept or torn: each of its sectors (512 or 4096 bytes, "
                "drawn per power loss) is new, old, zero or garbage, and the size may be ahead "
                "of the data. Bytes outside the written range are never touched."
            ),
            names_durable="directory-sync",
            names_survive="closed-subset",
            data_survives="sectors",
        ),
        Profile(
            name="lying-flash",
            contract=(
                "As lazyfs, but a sync of the chosen files (default: all) reports success and "
                "does nothing. No program can keep a promise on it: it is for subjects that must "
                "fail."
            ),
            names_durable="at-once",
            ignored_syncs=("*",),
        ),
    )
}
HONEST_PROFILES = tuple(name for name, profile in PROFILES.items() if not profile.ignored_syncs)


def get_profile(name: str, ignored_syncs: tuple[str, ...] | None = None) -> Profile:
    """The profile called `name`, with other globs for the files whose syncs it ignores.

    Raises:
        ConfigError: no such profile.
    """
    try:
        profile = PROFILES[name]
    except KeyError:
        known = ", ".join(PROFILES)
        raise ConfigError(f"unknown profile {name!r}; known are {known}") from None
    return profile if ignored_syncs is None else replace(profile, ignored_syncs=ignored_syncs)


def survivors_of_names(profile: Profile, journal: list[NameOp], rng: random.Random) -> list[int]:
    """Indexes of the pending name operations that are durable after the power loss, in order."""
    if profile.names_survive == "prefix":
        return list(range(rng.randint(0, len(journal))))
    if profile.names_survive == "closed-subset":
        return _closed_subset(journal, rng)
    return []


def _closed_subset(journal: list[NameOp], rng: random.Random) -> list[int]:
    """A random subset without the operations that depend on one that was lost."""
    lost_names: set[tuple[int, bytes]] = set()
    lost_move = False
    survivors = []
    for index, op in enumerate(journal):
        keys = [(slot.directory.ino, slot.name) for slot in op.slots]
        depends_on_lost = any(key in lost_names for key in keys)
        depends_on_lost = depends_on_lost or (op.moves_directory and lost_move)
        if rng.random() < 0.5 and not depends_on_lost:
            survivors.append(index)
        else:
            lost_names.update(keys)
            lost_move = lost_move or op.moves_directory
    return survivors


def surviving_data(
    profile: Profile, pending: list[DataOp], sector_bytes: int, rng: random.Random
) -> list[DataOp]:
    """The operations to apply to the synced content of one inode, in order."""
    if profile.data_survives == "prefix":
        return pending[: rng.randint(0, len(pending))]
    if profile.data_survives != "sectors":
        return []
    result: list[DataOp] = []
    for op in pending:
        fate = rng.choice(("lost", "kept", "torn"))
        if fate == "kept" or (fate == "torn" and not isinstance(op, Write)):
            result.append(op)
        elif fate == "torn" and isinstance(op, Write):
            result.extend(_tear(op, sector_bytes, rng))
    return result


def _tear(op: Write, sector_bytes: int, rng: random.Random) -> list[DataOp]:
    end = op.offset + len(op.data)
    pieces: list[DataOp] = [Allocate(op.offset, len(op.data))]
    position = op.offset
    while position < end:
        stop = min(end, (position // sector_bytes + 1) * sector_bytes)
        fate = rng.choice(("new", "old", "zero", "garbage"))
        if fate == "new":
            pieces.append(Write(position, op.data[position - op.offset : stop - op.offset]))
        elif fate == "zero":
            pieces.append(Write(position, bytes(stop - position)))
        elif fate == "garbage":
            pieces.append(Write(position, rng.randbytes(stop - position)))
        position = stop
    return pieces
