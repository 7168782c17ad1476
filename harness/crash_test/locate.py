"""Where a line is, or should be: for people who look into a failure."""

from __future__ import annotations

import re
from pathlib import Path

from harness import oracle
from harness.crash_test.ledger import Ledger
from harness.crash_test.results import Finding

_RANGE = re.compile(r"([0-9a-f]{16})(?:-([0-9a-f]{16}))?\.(?:sst|wal)$")


def locate(findings: tuple[oracle.Finding, ...], ledger: Ledger, disk: Path) -> tuple[Finding, ...]:
    """Add to each finding the file of ``disk`` that has its line, and the offset in bytes where that is known."""
    located = []
    images: dict[Path, bytes] = {}
    if findings and disk.exists():
        images = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
    for finding in findings:
        place: tuple[str, int | None] | None = None
        if finding.lsn is not None:
            place = _place(finding.lsn, ledger, images)
        file, offset = place or (None, None)
        if file is not None:
            file = str(Path(file).relative_to(disk))
        located.append(Finding(finding.verdict, finding.lsn, finding.reason, file, offset))
    return tuple(located)


def _place(lsn: int, ledger: Ledger, images: dict[Path, bytes]) -> tuple[str, int | None] | None:
    entry = ledger.seen.get(lsn) or ledger.shown.get(lsn)
    line = ledger.acked.get(lsn) or (entry.data if entry else None)
    if line:
        for path, image in images.items():
            offset = image.find(line)
            if offset >= 0:
                return str(path), offset
    # It is nowhere as it was: the table that covers it, or the last segment that begins at or below it.
    candidates = []
    for path in images:
        match = _RANGE.search(path.name)
        if match and int(match[1], 16) <= lsn <= int(match[2] or "f" * 16, 16):
            candidates.append((match[2] is not None, int(match[1], 16), str(path)))
    return (max(candidates)[2], None) if candidates else None
