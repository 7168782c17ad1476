"""What would be lost right now: as data for programs and as a table for people."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from lazyfs.inode import Inode, paths_of
from lazyfs.model import Disk
from lazyfs.ops import NameOp, Slot


def unsynced(disk: Disk) -> dict[str, Any]:
    """Un-synced bytes per file and un-synced names; the form of the `report` command's answer."""
    files = [_file_report(inode) for inode in disk.dirty.values() if inode.pending]
    files.sort(key=lambda item: str(item["path"]))
    names = [_name_report(op) for op in disk.journal]
    return {
        "profile": disk.profile.name,
        "unsynced_bytes": sum(item["unsynced_bytes"] for item in files),
        "unsynced_operations": sum(item["operations"] for item in files),
        "files": files,
        "names": names,
    }


def _file_report(inode: Inode) -> dict[str, Any]:
    paths = paths_of(inode)
    return {
        "path": paths[0] if paths else f"(unlinked file {inode.ino})",
        "unsynced_bytes": inode.pending_bytes,
        "operations": len(inode.pending),
        "size": inode.size,
        "synced_size": inode.synced_size,
    }


def _name_report(op: NameOp) -> dict[str, str]:
    first = _slot_path(op.slots[0])
    report = {"op": op.kind, "path": first}
    if len(op.slots) == 2:
        report["to"] = _slot_path(op.slots[1])
    return report


def _slot_path(slot: Slot) -> str:
    paths = paths_of(slot.directory)
    name = os.fsdecode(slot.name)
    parent = paths[0] if paths else "(removed directory)"
    return f"{parent}/{name}" if parent else name


def table(report: dict[str, Any]) -> str:
    """The report for a person."""
    files, names = report["files"], report["names"]
    if not files and not names:
        return f"profile {report['profile']}: nothing would be lost"
    rows = [("file", "un-synced bytes", "operations", "size now", "size after")]
    rows += [
        (
            item["path"],
            f"{item['unsynced_bytes']:,}",
            f"{item['operations']:,}",
            f"{item['size']:,}",
            f"{item['synced_size']:,}",
        )
        for item in files
    ]
    lines = _aligned(rows) if files else []
    if names:
        lines += [""] if lines else []
        name_rows = [("name", "operation")]
        name_rows += [
            (item["path"] + (f" -> {item['to']}" if "to" in item else ""), item["op"])
            for item in names
        ]
        lines += _aligned(name_rows)
    total = (
        f"profile {report['profile']}: {report['unsynced_bytes']:,} bytes in {len(files)} files "
        f"and {len(names)} operations on names are not synced"
    )
    return "\n".join([*lines, "", total])


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
