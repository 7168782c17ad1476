"""The manifest gives back what was written, and nothing from damaged bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kifa.errors import Damage
from kifa.manifest import (
    Manifest,
    ManifestSegment,
    ManifestTable,
    load_manifest,
    read_manifest,
    write_manifest,
)
from kifa.sstable_format import TableMetadata

# file names are any bytes; Python has those that are not UTF-8 as lone surrogates
KEYS = st.binary(max_size=12).map(lambda name: name.decode("utf-8", "surrogateescape"))
SOURCES = st.dictionaries(KEYS, st.dictionaries(st.just("offset"), st.integers(0, 2**63)))
DAMAGE = Damage("corruption", "wal/0000000000000001.wal", 8192, 3, 4, "flipped")


def manifest_with(sources: dict[str, dict[str, int]]) -> Manifest:
    return Manifest(
        bytes(range(16)),
        7,
        40,
        (ManifestTable("a.sst", 1, 40, 38),),
        (ManifestSegment("wal/b.wal", 41, 9, 1 << 24),),
        sources,
        (DAMAGE,),
    )


@given(SOURCES)
def test_round_trip(sources: dict[str, dict[str, int]]) -> None:
    manifest = manifest_with(sources)
    assert Manifest.decode(manifest.encode()) == manifest
    assert manifest.segment_sizes() == {"wal/b.wal": 1 << 24}
    metadata = TableMetadata(sources)
    assert TableMetadata.parse(metadata.pack()) == metadata


def test_every_flipped_bit_and_every_truncation_is_found(tmp_path: Path) -> None:
    content = manifest_with({"tail:a": {"offset": 1}}).encode()
    for offset in range(len(content)):
        assert Manifest.decode(content[:offset]) is None
        for bit in range(8):
            flipped = bytearray(content)
            flipped[offset] ^= 1 << bit
            assert Manifest.decode(bytes(flipped)) is None


@pytest.mark.parametrize("content", [b"", b"KIFAMAN1", b"x" * 100])
def test_an_unusable_manifest_is_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest").write_bytes(content)
    manifest, damage = read_manifest(tmp_path)
    assert manifest is None
    assert damage is not None
    assert (damage.file, damage.first_lsn) == ("manifest", None)


def test_reading_back(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == (None, None)
    write_manifest(tmp_path, manifest_with({}))
    assert load_manifest(tmp_path) == manifest_with({})
