"""The scanner and the judgement of segments: nothing invented, nothing undamaged lost."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kifa
from kifa._scan import SegmentScanner
from kifa.judgement import LogSurvey, survey_log
from kifa.segments import SegmentHeader, list_segments
from kifa.verify import verify_store
from tests.conftest import run_python

ENTRIES = {
    **{lsn: b"entry %d" % lsn for lsn in range(1, 6)},
    **{lsn: b"batch %d " % lsn * (lsn % 7) for lsn in range(6, 40)},
    40: b"large" * 2_000,
    41: b"last",
}

WRITE = """
import os, signal, sys, kifa
log = kifa.open(sys.argv[1], segment_size_mib=1)
for lsn in range(1, 6):
    log.append(b"entry %d" % lsn)
log.append_many([b"batch %d " % lsn * (lsn % 7) for lsn in range(6, 40)])
log.append(b"large" * 2_000)
log.append(b"last")
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
log.close()
"""


@pytest.fixture(scope="module", params=["close", "kill"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with `ENTRIES`, closed or killed."""
    path: Path = tmp_path_factory.mktemp(request.param) / "store"
    run_python(WRITE, str(path), request.param)
    return path


def segment_of(store: Path) -> Path:
    (path,) = (store / "wal").glob("*.wal")
    return path


def used_bytes(store: Path) -> int:
    with survey_log(store) as log:
        scanner = log.views[0].scanner
        assert scanner is not None
        return scanner.survey().end


def entries_of(log: LogSurvey) -> dict[int, bytes]:
    return {e.lsn: e.data for view in log.views for batch in view.batches() for e in batch}


def lost_lsns(log: LogSurvey) -> set[int]:
    ranges = [
        (d.first_lsn, d.last_lsn)
        for d in [*log.damage, *([log.torn_tail] if log.torn_tail else [])]
        if d.first_lsn is not None and d.last_lsn is not None
    ]
    return {lsn for first, last in ranges for lsn in range(first, min(last, 100) + 1)}


def test_everything_is_found(written: Path) -> None:
    with survey_log(written) as log:
        assert entries_of(log) == ENTRIES
        assert not log.damage
        assert log.torn_tail is None
        assert log.closed == ("close" in written.parent.name)


def flipped(store: Path, bit: int) -> Iterator[None]:
    path = segment_of(store)
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, bit // 8)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1 << bit % 8]), bit // 8)
        yield
        os.pwrite(file.fileno(), byte, bit // 8)


def check_flip(store: Path, bit: int) -> None:
    closed = "close" in store.parent.name
    for _ in flipped(store, bit):
        with survey_log(store) as log:
            found = entries_of(log)
            assert found.items() <= ENTRIES.items(), "nothing is invented or altered"
            missing = ENTRIES.keys() - found.keys()
            if closed:
                assert len(missing) <= 1, "a flipped bit costs one entry"
                assert missing <= lost_lsns(log), "and that is named"
            else:
                # The last group before a kill cannot be told from a torn one.
                assert len(missing - {41}) <= 1
                assert missing - {41} <= lost_lsns(log)


def test_every_flipped_bit_of_the_records_before_the_large_one(written: Path) -> None:
    """Every bit of the headers, and of the first groups: lone entries and a batch."""
    for bit in [*range(64 * 8), *range(4092 * 8, 4096 * 8 + 64 * 8)]:
        check_flip(written, bit)
    for offset in range(8192, used_bytes(written), 4096):
        for bit in range(offset * 8, (offset + 96) * 8):
            check_flip(written, bit)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_flipped_bit(written: Path, data: st.DataObject) -> None:
    check_flip(written, data.draw(st.integers(0, used_bytes(written) * 8 - 1)))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_truncation(written: Path, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, used_bytes(written) + 4096))
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / written.parent.name / "store"
        shutil.copytree(written, copy)
        os.truncate(segment_of(copy), size)
        with survey_log(copy) as log:
            found = entries_of(log)
            assert found.items() <= ENTRIES.items()
            assert log.damage, "a short segment is damage"
            assert ENTRIES.keys() - found.keys() <= lost_lsns(log)
        with kifa.open(copy) as writer:
            assert writer.damage
            assert writer.append(b"new") > max(ENTRIES), "no LSN that was told is used again"
        with kifa.open(copy) as writer:
            assert writer.damage, "damage is not forgotten"


@given(st.binary(max_size=20_000), st.integers(0, 2**64 - 1))
@settings(max_examples=200, deadline=None)
def test_any_bytes_hold_nothing(content: bytes, salt: int) -> None:
    """The scanner never fails and never finds what nobody wrote."""
    with tempfile.TemporaryFile() as file:
        file.write(bytes(8192) + content)
        file.flush()
        survey = SegmentScanner(file.fileno(), salt, 8192 + len(content)).survey()
        assert survey.extents == []
        assert all(not group.extents for group in survey.broken)


def test_a_stale_record_of_a_recycled_segment_never_counts(store: Path) -> None:
    """The old content lines up exactly with the new one, record by record."""
    with kifa.open(store, segment_size_mib=1) as log:
        for _ in range(600):
            log.append(b"same size")
        log.flush()
        expected = 600
        for _ in range(40):
            log.append(b"same size")
            expected += 1
    with survey_log(store, above_lsn=600) as survey:
        assert survey.end_lsn == expected
        assert not survey.damage
    for file in list_segments(store):
        assert file.header is not None
        assert file.unchanged()
        file.close()


def test_a_header_survives_its_encoding() -> None:
    header = SegmentHeader(b"i" * 16, 3, 2**64 - 5, 77, 1 << 24, 1_769_884_200_000, 12, "normal")
    block = header.encode()
    assert SegmentHeader.decode(block) == header
    for bit in range(0, len(block) * 8, 7):
        changed = bytearray(block)
        changed[bit // 8] ^= 1 << bit % 8
        assert SegmentHeader.decode(bytes(changed)) is None


def test_a_group_that_fills_its_segment_to_the_last_byte_is_whole(store: Path) -> None:
    """Recovery has to write it again, as any last group, and so has to see that it is complete."""
    script = """
import os, signal, sys, kifa
log = kifa.open(sys.argv[1], segment_size_mib=1)
log.append(b"x" * (1024 * 1024 - 8192 - 4096 - 100))
log.append(b"y" * 3_900)
os.kill(os.getpid(), signal.SIGKILL)
"""
    run_python(script, str(store))
    with survey_log(store) as log:
        (view,) = log.views
        assert view.file.size_bytes == 1 << 20
        assert log.torn_tail is None
        assert view.last_group is not None
        assert (view.last_group.first_lsn, view.last_group.end) == (2, 1 << 20)


def batch_of_300(store: Path) -> tuple[Path, int]:
    """Write a group of 300 entries of 300 bytes, and die; return its segment and where it starts."""
    script = """
import os, signal, sys, kifa
log = kifa.open(sys.argv[1], segment_size_mib=1)
log.append(b"before")
log.append_many([b"%300d" % number for number in range(300)])
os.kill(os.getpid(), signal.SIGKILL)
"""
    run_python(script, str(store))
    return segment_of(store), 8192 + 4096


def test_a_torn_sector_is_a_torn_tail_however_many_records_it_held(store: Path) -> None:
    path, start = batch_of_300(store)
    content = path.read_bytes()
    for sector in range(start + 512, start + 300 * 340 // 512 * 512, 512):
        path.write_bytes(content[:sector] + bytes(512) + content[sector + 512 :])
        with survey_log(store) as log:
            assert log.torn_tail is not None, f"sector at {sector}"
            assert not log.damage
            assert log.end_lsn == 1


def test_a_torn_tail_is_reported_also_without_its_first_record(store: Path) -> None:
    """So that a last group that was confirmed, and rotted later, is at least mentioned."""
    path, start = batch_of_300(store)
    content = path.read_bytes()
    for lost in (512, 4096, 40_000):
        path.write_bytes(content[:start] + bytes(lost) + content[start + lost :])
        report = verify_store(store)
        assert report.torn_tail is not None
        assert (report.torn_tail.first_lsn, report.torn_tail.last_lsn) == (2, 301)
        assert report.intact
        assert report.entries == 1


def test_damage_beside_valid_bytes_of_its_sector_is_no_torn_tail(store: Path) -> None:
    path, start = batch_of_300(store)
    content = path.read_bytes()
    for record in range(1, 98):
        damaged = bytearray(content)
        # It is proven to have been written where the record shares each of its sectors with a neighbour.
        damaged[start + record * 340 + 28] ^= 1
        path.write_bytes(damaged)
        with survey_log(store) as log:
            first, last = start + record * 340, start + (record + 1) * 340
            shared = first % 512 and last % 512 and last // 512 - first // 512 <= 1
            assert (log.torn_tail is None) == bool(shared), f"record {record}"
            if shared:
                assert lost_lsns(log) == {record + 2}
