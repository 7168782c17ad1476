"""The lines of output that README.md shows are those that are printed."""

from __future__ import annotations

import re
from pathlib import Path

from kifa._batch import Entry
from kifa._format import CSV_HEADER, FORMATS, Formatter
from tests.batches import batch_of

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_formats_of_the_readme() -> None:
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", README, re.MULTILINE))
    assert set(FORMATS) <= set(rows)
    for name, data in (
        ("text", b'{"txn":"TXN-001","amount":5000}'),
        ("json", b"..."),
        ("csv", b"..."),
    ):
        formatter = Formatter(name)
        formatter.add(batch_of([Entry(1, 1_769_884_200_000, data)]))
        assert f"`{formatter.take().decode().rstrip()}`" in rows[name]
    assert f"`{CSV_HEADER.decode().rstrip()}`" in rows["csv"]
