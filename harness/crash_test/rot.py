"""Bit rot in a store of Kifa: a place is drawn, damaged, and must be noticed; only what stood there may be lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.crash_test.faults import Fault
from harness.decoder import decode
from harness.decoder.segment import GROUP_START, RECORDS_OFFSET, read_segment
from harness.decoder.table import read_table, table_store_id
from harness.oracle import Finding, Verdict

VERIFY_DEADLINE_S = 120.0
DAMAGED = 4  # the exit code of kifa verify
# A damaged record costs itself, a damaged block of a table its entries: about 64 KiB, or one larger entry.
MAX_COST_BYTES = 2 * 64 * 1024 + (1 << 20)


@dataclass(frozen=True, slots=True)
class Place:
    """Bytes that say something.

    Attributes:
        file: relative to the store.
        kind: "table", "manifest", "header" or "record".
        is_certain: whether damage there is damage whatever else the store holds.
    """

    file: str
    offset: int
    length: int
    kind: str
    is_certain: bool


class BitRot(Fault):
    """Flips bits or zeroes bytes in one place, while nothing runs."""

    is_declared = True

    def at_rest(self, store: Path) -> list[Finding]:
        place = self._choose(list(rottable_places(store)))
        if place is None:
            return []
        before = decode(store)
        alone = entries_in(store, place.file)
        damage = self._damage(place)
        after = decode(store)
        gone = alone.keys() - entries_in(store, place.file).keys()
        self._begun(
            f"{damage['kind']} of {damage['length']} bytes at {damage['offset']} of {place.file}: "
            f"{len(gone)} entries stood there"
        )
        if not self.is_declared:
            return []
        self.stand.store.ledger.rotten |= {lsn: alone[lsn] for lsn in gone}
        findings = []
        cost_bytes = sum(len(alone[lsn]) for lsn in gone)
        if cost_bytes > MAX_COST_BYTES:
            reason = f"{len(gone)} entries of {cost_bytes} bytes are lost by one damaged place"
            findings.append(Finding(Verdict.LOST, min(gone), reason))
        is_damage = place.is_certain or after.damage != before.damage
        if damage["changed"] and is_damage:
            findings += self._check_noticed(store, place)
        return findings

    def _choose(self, places: list[Place]) -> Place | None:
        if not places:
            return None
        kind = self.draw.choice(sorted({place.kind for place in places}))
        return self.draw.choice([place for place in places if place.kind == kind])

    def _damage(self, place: Place) -> dict[str, object]:
        """Damage the place through lazyfs, which keeps a register of it."""
        offset = place.offset + self.draw.randrange(place.length)
        path = f"{self.stand.store.path.name}/{place.file}"
        if self.draw.random() < 0.5:
            mask = self.draw.randint(1, 255)
            self.power.command("corrupt", path=path, kind="flip", offset=offset, mask=mask)
        else:
            length = min(self.draw.randint(1, 600), place.offset + place.length - offset)
            self.power.command("corrupt", path=path, kind="zero", offset=offset, length=length)
        register: list[dict[str, object]] = self.power.command("corruptions")["corruptions"]
        return register[-1]

    def _check_noticed(self, store: Path, place: Place) -> Iterator[Finding]:
        """``kifa verify`` names the file."""
        result = subprocess.run(
            [self.stand.settings.kifa_bin, "verify", "--json", "-d", str(store)],
            capture_output=True,
            timeout=VERIFY_DEADLINE_S,
            check=False,
        )
        named = []
        if result.stdout:
            named = [damage["file"] for damage in json.loads(result.stdout)["damage"]]
        if result.returncode != DAMAGED or place.file not in named:
            reason = (
                f"kifa verify ends with {result.returncode} and names {named}, not {place.file}"
            )
            yield Finding(Verdict.CORRUPT, None, reason)


class Tampering(BitRot):
    """The same, and nobody is told: the test has to find it."""

    is_declared = False

    def _choose(self, places: list[Place]) -> Place | None:
        """The last record before the last group: no table has it as well."""
        return next((place for place in reversed(places) if place.kind == "record"), None)


def rottable_places(store: Path) -> Iterator[Place]:
    """Give the places of a store at rest of which something depends, but for the last group.

    A damaged last group cannot be told from a torn one, and then costs what is in it (FORMAT.md, "Stated downsides").
    """
    tables = [path.name for path in store.glob("sst/*.sst")]
    for name in tables:
        if not any(_covers(other, name) for other in tables):
            yield Place(f"sst/{name}", 0, (store / "sst" / name).stat().st_size, "table", True)
    if (store / "manifest").is_file():
        yield Place("manifest", 0, (store / "manifest").stat().st_size, "manifest", True)
    segments = [
        (path, read_segment(path.name, path.read_bytes(), None)) for path in store.glob("wal/*.wal")
    ]
    segments.sort(key=lambda item: item[1].first_lsn)
    last = max(
        (i for i, (_, s) in enumerate(segments) if any(r.is_valid for r in s.records)), default=-1
    )
    for number, (path, segment) in enumerate(segments):
        file = f"wal/{path.name}"
        if segment.header is not None:
            yield Place(file, 0, RECORDS_OFFSET, "header", True)
        starts = [r.offset for r in segment.records if r.is_valid and r.flags & GROUP_START]
        end = starts[-1] if number == last and starts else segment.size_bytes
        for record in segment.records:
            if record.is_valid and record.offset < end:
                yield Place(file, record.offset, record.end - record.offset, "record", False)


def _covers(table: str, other: str) -> bool:
    """Whether the range of a table lies within that of another; a name is "<min>-<max>.sst"."""
    first, last = table[:-4].split("-")
    other_first, other_last = other[:-4].split("-")
    return table != other and first <= other_first and other_last <= last


def entries_in(store: Path, file: str) -> dict[int, bytes]:
    """Return what a file alone holds: LSN to data."""
    image = (store / file).read_bytes()
    if file.startswith("wal/"):
        segment = read_segment(file[4:], image, None)
        return {r.lsn: r.data for r in segment.records if r.is_valid and r.type == 0}
    if file.startswith("sst/"):
        store_id = table_store_id(image)
        if store_id is not None:
            return {e.lsn: e.data for e in read_table(file[4:], image, store_id, [])}
    return {}
