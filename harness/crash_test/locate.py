"""Where a line is, or should be: for people who look into a failure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from harness import oracle
from harness.crash_test.ledger import Ledger
from harness.crash_test.results import Finding
from harness.crash_test.workload import is_whole, name_of

_RANGE = re.compile(r"([0-9a-f]{16})(?:-([0-9a-f]{16}))?\.(?:sst|wal)$")


def locate(
    findings: tuple[oracle.Finding, ...],
    ledger: Ledger,
    recovered: Mapping[int, bytes],
    disk: Path,
) -> tuple[Finding, ...]:
    """Add to each finding which line it is about, the file of ``disk`` that has it, and the offset where that is known.

    Args:
        recovered: LSN to bytes of what is there.
    """
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
        reason = finding.reason
        if finding.lsn is not None:
            reason += _whose(finding.lsn, ledger, recovered)
        located.append(Finding(finding.verdict, finding.lsn, reason, file, offset))
    return tuple(located)


def _whose(lsn: int, ledger: Ledger, recovered: Mapping[int, bytes]) -> str:
    wanted, found = _line(lsn, ledger), recovered.get(lsn)
    text = "" if wanted is None else f": {name_of(wanted)}"
    if found is not None and found != wanted:
        text += f"; there is {name_of(found)}" + (
            "" if is_whole(found) else ", its digest is wrong"
        )
    return text


def _line(lsn: int, ledger: Ledger) -> bytes | None:
    entry = ledger.seen.get(lsn) or ledger.shown.get(lsn)
    return ledger.acked.get(lsn) or (entry.data if entry else None)


def _place(lsn: int, ledger: Ledger, images: dict[Path, bytes]) -> tuple[str, int | None] | None:
    line = _line(lsn, ledger)
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
