"""A sorted table of format version 1, frozen: later versions must read it, entry by entry."""

from __future__ import annotations

import shutil
from pathlib import Path

from kifa._batch import Entry
from kifa.errors import Damage
from kifa.sstable import Table, read_store_id
from kifa.sstable_format import CODEC_NONE, CODEC_ZSTD, BlockHeader, IndexRow, TableMetadata
from tests.batches import STORE_ID, numbered
from tests.test_sstable import read_entries

GOLDEN = Path(__file__).parent / "golden" / "v1.sst"
NAME = "0000000000000005-0000000000000191.sst"

# a block that shrinks, a gap, a block that does not shrink: times that jump back, empty data, all bytes
ENTRIES = [
    *numbered((b'{"txn_id":"TXN-%06d","amount":5000}' % n for n in range(5, 399)), 5),
    Entry(400, 2**64 - 1, b""),
    Entry(401, 0, bytes(range(256))),
]
METADATA = TableMetadata(
    {"tail:/var/log/caf\u00e9.log": {"offset": 12, "inode": 7}},
    ((6, 1_769_884_200_000, 1_769_880_600_000),),
    3,
    (
        Damage(
            "gap", "wal/0000000000000001.wal", None, 1, 4, "records do not match their checksums"
        ),
    ),
)


def test_the_frozen_table_is_read(tmp_path: Path) -> None:
    shutil.copy(GOLDEN, tmp_path / NAME)
    assert read_store_id(GOLDEN) == STORE_ID
    with Table(tmp_path / NAME, STORE_ID) as table:
        assert read_entries(table.batches()) == ENTRIES
        assert table.metadata == METADATA
        assert table.verify() == []
        assert (table.info.min_lsn, table.info.max_lsn, table.info.entries) == (5, 401, 396)
        assert table.info.data_bytes == sum(len(entry.data) for entry in ENTRIES)
        rows = [IndexRow.at(table.index, position) for position in range(table.blocks)]
    codecs = {BlockHeader.unpack(GOLDEN.read_bytes()[row.offset :]).codec for row in rows}
    assert codecs == {CODEC_NONE, CODEC_ZSTD}
