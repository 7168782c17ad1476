"""The memtable keeps what it is given."""

from __future__ import annotations

from pathlib import Path

import kifa
from kifa._memtable import Memtable
from kifa.query import Selection
from tests.reading import read_all


def test_a_memtable_gives_back_what_it_got(store: Path) -> None:
    with kifa.open(store) as log:
        log.append_many([b"%d" % i * (i % 50) for i in range(1_000)])
        log.flush()
    memtable = Memtable()
    for batch in kifa.reader(store).batches(Selection()):
        memtable.extend(batch)
    assert [e.data for e in memtable.batch()] == [data for _, data in read_all(store)]
    memtable.add_control(1, 5, b"control")
    assert memtable.controls() == [(1, 5, b"control")]
