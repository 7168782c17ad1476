"""A store of each format version, frozen: what was written once stays readable."""

from __future__ import annotations

import shutil
from pathlib import Path

import kifa
from tests.reading import read_all

GOLDEN = Path(__file__).parent / "golden" / "store-v1"
ENTRIES = [
    *((lsn, b"golden %d" % lsn) for lsn in range(1, 6)),
    (6, "é".encode()),
    (7, b""),
    (8, b"\xff\x00"),
    (9, b"a line"),
]


def test_version_1_is_read() -> None:
    assert read_all(GOLDEN) == ENTRIES
    assert kifa.reader(GOLDEN).verify().damage == ()


def test_version_1_is_written_on(tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(GOLDEN, store)
    with kifa.open(store, segment_size_mib=1) as log:
        assert log.sources == {"file:/var/log/shop.log": {"offset": 7}}
        assert log.append(b"next") == 10
    assert read_all(store) == [*ENTRIES, (10, b"next")]
