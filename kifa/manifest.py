"""The manifest: a cache of what tables and WAL say, replaced atomically (docs/FORMAT.md, "Manifest").

It tells what should be there, so that a missing file is noticed. Whoever reads it must not need it.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from kifa._crc32c import crc32c
from kifa._typing import Any, NamedTuple
from kifa.errors import Damage
from kifa.fs import replace_durably
from kifa.segments import LogPosition
from kifa.sstable_format import TABLE_DIRECTORY

MANIFEST_NAME = "manifest"
_MAGIC = b"KIFAMAN1"
_VERSION = 1
_HEADER = struct.Struct("<8sIIII")


class ManifestTable(NamedTuple):
    """A published table."""

    name: str
    min_lsn: int
    max_lsn: int
    entries: int


class ManifestSegment(NamedTuple):
    """A segment that may hold LSNs above the checkpoint."""

    name: str
    first_lsn: int
    sequence: int
    size_bytes: int


class Unmended(NamedTuple):
    """A damaged table that could not be mended yet, which LSN ranges (inclusive) it lost, and why it was not."""

    name: str
    lost: tuple[tuple[int, int], ...]
    reason: str

    def damage(self) -> list[Damage]:
        """Return it as it is told to users."""
        reason = (
            f"it cannot be mended yet ({self.reason}); segments that may have what it lost are kept"
        )
        return [
            Damage("corruption", f"{TABLE_DIRECTORY}/{self.name}", None, first, last, reason)
            for first, last in self.lost
        ]


class Manifest(NamedTuple):
    """The body of a manifest.

    ``sources`` maps a source's key to its latest checkpoint; ``checkpoint_end`` is where in the log the entries end
    that tables have, if that is known.
    """

    store_id: bytes
    generation: int
    checkpoint_lsn: int
    tables: tuple[ManifestTable, ...]
    segments: tuple[ManifestSegment, ...]
    sources: dict[str, Any]
    damage: tuple[Damage, ...]
    unmended: tuple[Unmended, ...] = ()
    checkpoint_end: LogPosition | None = None

    def segment_sizes(self) -> dict[str, int]:
        """Return the size in bytes that each segment should have, by name."""
        return {segment.name: segment.size_bytes for segment in self.segments}

    def encode(self) -> bytes:
        """Return the bytes of the file."""
        fields = {
            "store_id": self.store_id.hex(),
            "generation": self.generation,
            "checkpoint_lsn": self.checkpoint_lsn,
            "tables": [table._asdict() for table in self.tables],
            "segments": [segment._asdict() for segment in self.segments],
            "sources": self.sources,
            "damage": [damage._asdict() for damage in self.damage],
            "unmended": [table._asdict() for table in self.unmended],
            "checkpoint_end": self.checkpoint_end and self.checkpoint_end._asdict(),
        }
        # escapes keep file names that are not UTF-8 (lone surrogates in Python) within valid UTF-8
        body = json.dumps(fields, separators=(",", ":")).encode()
        head = _HEADER.pack(_MAGIC, _VERSION, len(body), crc32c(body), 0)[:-4]
        return head + struct.pack("<I", crc32c(head)) + body

    @classmethod
    def decode(cls, content: bytes) -> Manifest | None:
        """Return the manifest in ``content``; None if it is not a valid one."""
        if len(content) < _HEADER.size:
            return None
        magic, version, size, body_crc, head_crc = _HEADER.unpack_from(content)
        body = content[_HEADER.size :]
        if (
            magic != _MAGIC
            or version != _VERSION
            or head_crc != crc32c(content[: _HEADER.size - 4])
            or size != len(body)
            or body_crc != crc32c(body)
        ):
            return None
        fields = json.loads(body)
        end = fields.get("checkpoint_end")
        return cls(
            bytes.fromhex(fields["store_id"]),
            fields["generation"],
            fields["checkpoint_lsn"],
            tuple(ManifestTable(**table) for table in fields["tables"]),
            tuple(ManifestSegment(**segment) for segment in fields["segments"]),
            fields["sources"],
            tuple(Damage(**damage) for damage in fields["damage"]),
            tuple(
                Unmended(table["name"], tuple(map(tuple, table["lost"])), table["reason"])
                for table in fields.get("unmended", ())
            ),
            LogPosition(**end) if end else None,
        )


def read_manifest(store: Path) -> tuple[Manifest | None, Damage | None]:
    """Read the manifest of ``store``: (None, None) if there is none, (None, damage) if it is unusable."""
    try:
        content = (store / MANIFEST_NAME).read_bytes()
    except FileNotFoundError:
        return None, None
    manifest = Manifest.decode(content)
    if manifest is None:
        reason = "the manifest does not match its checksums; the next writer rebuilds it"
        return None, Damage("corruption", MANIFEST_NAME, 0, None, None, reason)
    return manifest, None


def load_manifest(store: Path) -> Manifest | None:
    """Read the manifest of ``store``; None if it is missing or damaged."""
    return read_manifest(store)[0]


def write_manifest(store: Path, manifest: Manifest) -> None:
    """Replace the manifest of ``store`` atomically and durably.

    Raises:
        OSError: the old one is still there.
    """
    replace_durably(store / MANIFEST_NAME, [manifest.encode()])
