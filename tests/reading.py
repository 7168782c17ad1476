"""Reading a store in tests."""

from __future__ import annotations

from pathlib import Path

import kifa


def read_all(store: Path) -> list[tuple[int, bytes]]:
    """Return (LSN, data) of every entry; raises if there is damage."""
    return [(entry.lsn, entry.data) for entry in kifa.reader(store).entries()]
