"""One sorted table (FORMAT.md, "Sorted table"). Its index is not used: blocks describe themselves."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from crc32c import crc32c

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_TABLE_HEADER = struct.Struct("<8sII16sQQ12sI")
_BLOCK_HEADER = struct.Struct("<8sQIB3sIIQQII")
_FOOTER = struct.Struct("<8s16sQQQQQQIIQIIQII")
_BLOCK_MAGIC = b"KIFABLK1"
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class TableEntry:
    """An entry of a table."""

    lsn: int
    timestamp_ms: int
    data: bytes


def table_store_id(image: bytes) -> bytes | None:
    """The store that a table says it belongs to, by header or footer; None if both are damaged."""
    if len(image) >= _TABLE_HEADER.size:
        magic, version, _, store_id, *_, crc = _TABLE_HEADER.unpack_from(image)
        if magic == b"KIFASST1" and version == 1 and crc32c(image[:60], crc32c(store_id)) == crc:
            return bytes(store_id)
    if len(image) >= _FOOTER.size:
        footer = image[-_FOOTER.size :]
        magic, store_id, *_, version, crc = _FOOTER.unpack(footer)
        if magic == b"KIFAFTR1" and crc32c(footer[:-4], crc32c(store_id)) == crc:
            return bytes(store_id)
    return None


def read_table(name: str, image: bytes, store_id: bytes, damage: list[str]) -> Iterator[TableEntry]:
    """Give the entries of a table, block by block.

    Args:
        damage: what is found wrong is added here, a line each.
    """
    seed = crc32c(store_id)
    count = 0
    offset = _TABLE_HEADER.size
    while True:
        header = _block_header(image, offset, seed)
        if header is None:
            following = _next_block(image, offset, seed)
            if following is None:
                break
            damage.append(f"sst/{name}: bytes {offset} to {following} are invalid")
            offset = following
            continue
        entries, end = _block_entries(image, offset, seed)
        if entries is None:
            damage.append(f"sst/{name}: the block at byte {offset} is damaged")
        else:
            count += len(entries)
            yield from entries
        offset = end
    expected = _count_in_footer(image, seed)
    if expected is None:
        damage.append(f"sst/{name}: the footer is damaged")
    elif expected != count:
        damage.append(f"sst/{name}: {count} entries of {expected}")


def _count_in_footer(image: bytes, seed: int) -> int | None:
    footer = image[-_FOOTER.size :]
    if len(footer) < _FOOTER.size:
        return None
    fields = _FOOTER.unpack(footer)
    if fields[0] != b"KIFAFTR1" or crc32c(footer[:-4], seed) != fields[-1]:
        return None
    return int(fields[4])


def _block_header(image: bytes, offset: int, seed: int) -> tuple[int, ...] | None:
    if offset + _BLOCK_HEADER.size > len(image) or image[offset : offset + 8] != _BLOCK_MAGIC:
        return None
    fields = _BLOCK_HEADER.unpack_from(image, offset)
    if crc32c(image[offset : offset + 52], seed) != fields[-1]:
        return None
    _, first_lsn, count, codec, _, stored, raw, min_ms, _, payload_crc, _ = fields
    if offset + _BLOCK_HEADER.size + stored > len(image):
        return None
    return first_lsn, count, codec, stored, raw, min_ms, payload_crc


def _next_block(image: bytes, offset: int, seed: int) -> int | None:
    offset = image.find(_BLOCK_MAGIC, offset)
    while offset >= 0 and _block_header(image, offset, seed) is None:
        offset = image.find(_BLOCK_MAGIC, offset + 1)
    return None if offset < 0 else offset


def _block_entries(image: bytes, offset: int, seed: int) -> tuple[list[TableEntry] | None, int]:
    header = _block_header(image, offset, seed)
    assert header is not None
    first_lsn, count, codec, stored, raw, min_ms, payload_crc = header
    start = offset + _BLOCK_HEADER.size
    payload = image[start : start + stored]
    end = start + stored
    if crc32c(payload, seed) != payload_crc:
        return None, end
    if codec == 1:
        payload = zstd.decompress(payload)
    if len(payload) != raw or codec > 1:
        return None, end
    position = 0
    timestamps: list[int] = []
    previous = min_ms
    for _ in range(count):
        value, position = _varint(payload, position)
        previous = (previous + ((value >> 1) ^ -(value & 1))) & _MASK
        timestamps.append(previous)
    lengths: list[int] = []
    for _ in range(count):
        value, position = _varint(payload, position)
        lengths.append(value)
    entries: list[TableEntry] = []
    for index, (timestamp_ms, length) in enumerate(zip(timestamps, lengths, strict=True)):
        data = payload[position : position + length]
        entries.append(TableEntry(first_lsn + index, timestamp_ms, data))
        position += length
    return (entries if position == len(payload) else None), end


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
