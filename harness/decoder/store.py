"""A whole store: what its tables and segments say together (FORMAT.md, "A store")."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from crc32c import crc32c

from harness.decoder.judgement import counting_records
from harness.decoder.segment import ENTRY, read_header, read_segment
from harness.decoder.table import read_table, table_store_id

_MANIFEST_HEADER = struct.Struct("<8sIIII")


class NotAStoreError(Exception):
    """The directory holds no store."""


@dataclass(frozen=True, slots=True)
class DecodedEntry:
    """An entry, and the file it was found in."""

    lsn: int
    timestamp_ms: int
    data: bytes
    file: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a store holds: its entries in LSN order, and a line for everything that is wrong in it."""

    entries: tuple[DecodedEntry, ...]
    damage: tuple[str, ...]


def decode(directory: Path) -> Decoded:
    """Decode a store at rest; nothing is written.

    Raises:
        NotAStoreError: there is no store in the directory.
        OSError: a file cannot be read.
    """
    if not (directory / "wal").is_dir() and not (directory / "manifest").is_file():
        raise NotAStoreError(f"{directory}: holds no store")
    tables = _images(directory / "sst", ".sst")
    segments = _images(directory / "wal", ".wal")
    store_id = _store_id(tables, segments) or manifest_store_id(directory / "manifest")
    damage: list[str] = []
    found: dict[int, DecodedEntry] = {}
    for name, image in sorted(tables.items()):
        if store_id is None or table_store_id(image) not in (None, store_id):
            damage.append(f"sst/{name}: of another store, or unreadable")
            continue
        for item in read_table(name, image, store_id, damage):
            entry = DecodedEntry(item.lsn, item.timestamp_ms, item.data, f"sst/{name}")
            _take(found, entry, damage)
    walked = [read_segment(name, image, store_id) for name, image in segments.items()]
    for record in counting_records(walked, damage):
        if record.type == ENTRY:
            entry = DecodedEntry(record.lsn, record.timestamp_ms, record.data, "wal")
            _take(found, entry, damage)
    damage.extend(_gaps(sorted(found), max((s.first_lsn for s in walked), default=1)))
    return Decoded(tuple(found[lsn] for lsn in sorted(found)), tuple(damage))


def _images(directory: Path, suffix: str) -> dict[str, bytes]:
    if not directory.is_dir():
        return {}
    return {
        path.name: path.read_bytes() for path in directory.iterdir() if path.name.endswith(suffix)
    }


def _store_id(tables: dict[str, bytes], segments: dict[str, bytes]) -> bytes | None:
    """The id that most files carry."""
    ids: list[bytes] = []
    for image in segments.values():
        header = read_header(image)
        if header is not None:
            ids.append(header.store_id)
    ids.extend(found for image in tables.values() if (found := table_store_id(image)) is not None)
    return max(set(ids), key=ids.count, default=None)


def manifest_store_id(path: Path) -> bytes | None:
    """The store that a manifest says it belongs to: where no other file can tell; None if it is damaged or missing."""
    image = path.read_bytes() if path.is_file() else b""
    if len(image) < _MANIFEST_HEADER.size:
        return None
    magic, version, size, body_crc, header_crc = _MANIFEST_HEADER.unpack_from(image)
    body = image[_MANIFEST_HEADER.size : _MANIFEST_HEADER.size + size]
    if magic != b"KIFAMAN1" or version != 1 or crc32c(image[:20]) != header_crc:
        return None
    return bytes.fromhex(json.loads(body)["store_id"]) if crc32c(body) == body_crc else None


def _take(found: dict[int, DecodedEntry], entry: DecodedEntry, damage: list[str]) -> None:
    other = found.setdefault(entry.lsn, entry)
    if (other.timestamp_ms, other.data) != (entry.timestamp_ms, entry.data):
        damage.append(f"LSN {entry.lsn} differs between {other.file} and {entry.file}")


def _gaps(lsns: list[int], first_of_last_segment: int) -> list[str]:
    gaps: list[str] = []
    expected = 1
    for lsn in [*lsns, max(first_of_last_segment, expected)]:
        if lsn > expected:
            gaps.append(f"LSNs {expected} to {lsn - 1} are missing")
        expected = max(expected, lsn + 1)
    return gaps
