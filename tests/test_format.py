"""docs/FORMAT.md and the code say the same numbers; old files stay readable."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import crc32c
import pytest

from kifa import control
from kifa.segments import SegmentHeader
from kifa.sstable_format import FOOTER_SIZE, HEADER_SIZE

ROOT = Path(__file__).parent.parent
FORMAT = (ROOT / "docs" / "FORMAT.md").read_text()
LAYOUT = (ROOT / "kifa" / "_layout.pxd").read_text()
ROW = re.compile(r"^\| ([\w +]+) \| ([\w ]+) \| (.+) \|$", re.MULTILINE)


def layout(name: str) -> int:
    match = re.search(rf"#define KIFA_{name} (?:UINT64_C\()?(\w+?)u?\)?(?:\s|$)", LAYOUT)
    assert match, name
    return int(match[1], 0)


def table(heading: str) -> list[tuple[str, str, str]]:
    section = FORMAT.split(f"{heading}\n", 1)[1].split("\n#", 1)[0]
    section = section[section.index("| offset") :].split("\n\n", 1)[0]
    return [row for row in ROW.findall(section) if row[0] != "offset"]


@pytest.mark.parametrize(
    ("heading", "size"),
    [
        ("### Segment header", 4096),
        ("### Table header", HEADER_SIZE),
        ("## Manifest", 24),
        ("Footer, the last 112 bytes:", FOOTER_SIZE),
    ],
)
def test_fields_follow_each_other_without_gaps(heading: str, size: int) -> None:
    offset = 0
    for start, length, _ in table(heading):
        if length == "size":
            continue
        assert int(start) == offset
        offset += int(length)
    assert offset == size


def test_the_layout_has_the_documents_numbers() -> None:
    record = {field.split(":")[0].split(",")[0]: start for start, _, field in table("### Record")}
    assert int(record["data"]) == layout("RECORD_HEAD_SIZE")
    assert int(record["LSN"]) == layout("RECORD_HEADER_SIZE")
    assert layout("RECORD_HEAD_SIZE") + layout("RECORD_TAIL_SIZE") == layout("RECORD_OVERHEAD")
    assert f"Overhead {layout('RECORD_OVERHEAD')} bytes" in FORMAT
    assert f"0 to {layout('MAX_ENTRY_SIZE'):,}" in FORMAT
    assert f"Records start at offset {layout('SEGMENT_DATA_OFFSET')}" in FORMAT
    assert f"1 = GROUP_START, {layout('FLAG_GROUP_END')} = GROUP_END" in FORMAT
    assert int(table("### Block")[-1][0]) == layout("TABLE_BLOCK_HEADER_SIZE")
    for name, text in {"RECORD_MAGIC": "KIFA-REC", "TABLE_BLOCK_MAGIC": "KIFABLK1"}.items():
        assert struct.pack("<Q", layout(name)) == text.encode()
        assert f"`{text}`" in FORMAT


def test_control_types_are_documented() -> None:
    for name in ("SOURCE_CHECKPOINT", "CLOCK_STEP", "CLOSE"):
        number = getattr(control, name)
        assert number == layout(f"TYPE_{name}")
        assert f"| {number} | {name.lower().replace('_', ' ')} |" in FORMAT


def test_a_segment_header_has_the_documented_bytes() -> None:
    header = SegmentHeader(b"i" * 16, 3, 4, 5, 6, 7, 8, "emergency")
    block = header.encode()
    sizes = {int(start): int(length) for start, length, _ in table("### Segment header")}
    assert block[:8] == b"KIFAWAL1"
    fields = [block[start : start + sizes[start]] for start in (32, 40, 48, 56, 64, 72, 80)]
    assert [int.from_bytes(field, "little") for field in fields] == [3, 4, 5, 6, 7, 8, 2]


def test_the_worked_example_is_in_the_golden_file() -> None:
    section = FORMAT.split("An example: the first record", 1)[1]
    example = bytes.fromhex(section.split("```", 2)[1])
    seeds = [int(seed, 16) for seed in re.findall(r"`(0x[0-9a-f]{8})`", section)[:2]]
    golden = ROOT / "tests" / "golden" / "store-v1" / "wal" / "0000000000000001.wal"
    content = golden.read_bytes()
    assert content[8192 : 8192 + len(example)] == example
    assert content[40:48] == struct.pack("<II", *seeds)
    assert struct.unpack_from("<I", example, 8)[0] == crc32c.crc32c(example[:8], seeds[0])
    assert struct.unpack_from("<I", example, 36)[0] == crc32c.crc32c(example[12:36], seeds[1])
