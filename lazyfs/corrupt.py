"""Damage to the synced content, and the register of it, so that its detection can be asserted."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from lazyfs.content import Base
from lazyfs.errors import CommandError
from lazyfs.inode import Inode


@dataclass(frozen=True)
class Damage:
    """One injected corruption.

    Attributes:
        kind: flip, zero, swap or misdirect.
        path: of the file, relative to the mount.
        offset, length: the damaged range in bytes.
        other_offset: the second range of a swap; how far a misdirected write goes astray.
        mask: the bits flipped in each byte of the range.
        changed: whether any byte differs now (zeroing zeros changes nothing).
    """

    kind: str
    path: str
    offset: int
    length: int
    other_offset: int = 0
    mask: int = 0
    changed: bool = True


class Corruptions:
    """Injects damage and remembers it."""

    def __init__(self) -> None:
        self._register: list[Damage] = []

    def register(self) -> list[dict[str, object]]:
        """Everything injected, oldest first."""
        return [asdict(damage) for damage in self._register]

    def flip(self, inode: Inode, path: str, offset: int, length: int, mask: int) -> Damage:
        """Flip the bits of `mask` in each byte of a range."""
        base = _base_with(inode, path, offset, length)
        if not 1 <= mask <= 255:
            raise CommandError("mask: a number from 1 to 255")
        base.write(offset, bytes(byte ^ mask for byte in base.read(offset, length)))
        return self._note(Damage("flip", path, offset, length, mask=mask))

    def zero(self, inode: Inode, path: str, offset: int, length: int) -> Damage:
        """Overwrite a range with zeros."""
        base = _base_with(inode, path, offset, length)
        changed = any(base.read(offset, length))
        base.write(offset, bytes(length))
        return self._note(Damage("zero", path, offset, length, changed=changed))

    def swap(self, inode: Inode, path: str, offset: int, other: int, length: int) -> Damage:
        """Exchange two ranges of the same length, such as sectors."""
        base = _base_with(inode, path, offset, length)
        _base_with(inode, path, other, length)
        if abs(offset - other) < length:
            raise CommandError("swap: the two ranges overlap")
        first, second = base.read(offset, length), base.read(other, length)
        base.write(offset, second)
        base.write(other, first)
        return self._note(
            Damage("swap", path, offset, length, other_offset=other, changed=first != second)
        )

    def misdirect(self, inode: Inode, path: str, distance: int) -> Damage:
        """Let the next write that is synced go `distance` bytes from its place."""
        if distance == 0:
            raise CommandError("distance: a number of bytes that is not 0")
        inode.misdirect_bytes = distance
        return self._note(Damage("misdirect", path, 0, 0, other_offset=distance))

    def _note(self, damage: Damage) -> Damage:
        self._register.append(damage)
        return damage


def _base_with(inode: Inode, path: str, offset: int, length: int) -> Base:
    base = inode.base
    if base is None or offset < 0 or length < 1 or offset + length > base.size:
        size = 0 if base is None else base.size
        raise CommandError(f"{path}: the range is not within its {size} synced bytes")
    return base
