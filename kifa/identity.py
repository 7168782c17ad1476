"""Which store the files of a directory belong to, where no manifest tells."""

from __future__ import annotations

from pathlib import Path

from kifa.fs import list_names
from kifa.segments import list_segments
from kifa.sstable import read_store_id
from kifa.sstable_format import TABLE_DIRECTORY, parse_table_name


def find_store_id(store: Path) -> bytes | None:
    """Return the id in any segment or table; None in an empty store."""
    files = list_segments(store)
    try:
        for file in reversed(files):
            if file.header is not None:
                return file.header.store_id
    finally:
        for file in files:
            file.close()
    for name in list_names(store / TABLE_DIRECTORY):
        if parse_table_name(name) is not None:
            store_id = read_store_id(store / TABLE_DIRECTORY / name)
            if store_id is not None:
                return store_id
    return None
