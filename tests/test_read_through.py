"""Reading the WAL while it is judged gives what judging it first and reading it then does, whatever is damaged."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kifa
from kifa.judgement import LogSurvey, survey_log
from kifa.manifest import load_manifest, write_manifest
from kifa.recovery import LARGE_LOG_SIZE_BYTES
from kifa.segments import DATA_OFFSET, LogPosition, list_segments
from tests.conftest import run_python
from tests.reading import read_all

SEGMENT_SIZE = 3 << 20

WRITE = """
import os, random, signal, sys, kifa
from kifa._lines import LineBuffer
choices = random.Random(7)
log = kifa.open(sys.argv[1], segment_size_mib=3, memtable_flush_threshold_mib=64)
for step in range(12):
    lines = LineBuffer()
    for _ in range(choices.randrange(1, 40)):
        lines.feed(choices.randbytes(choices.choice((0, 10, 200, 5_000, 30_000))).hex().encode() + b"\\n")
    log.frame_lines(lines, hold=True)
    log.frame_source_checkpoint("tail:x", {"offset": step})
    log.sync()
    log.append(choices.randbytes(choices.choice((0, 300, 4_096, 900_000))))
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
log.close()
"""


@pytest.fixture(scope="module", params=["close", "kill"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of several segments, all of it in the WAL."""
    path: Path = tmp_path_factory.mktemp(request.param) / "store"
    result = run_python(WRITE, str(path), request.param)
    assert result.returncode in (0, -9), result.stderr.decode()
    return path


Entries = dict[int, bytes]
Controls = list[tuple[int, int, int, bytes]]


def read_at_once(store: Path) -> tuple[Entries, Controls, LogSurvey]:
    with survey_log(store) as log:
        entries = {e.lsn: e.data for view in log.views for batch in view.batches() for e in batch}
        return entries, [item for view in log.views for item in view.controls()], log


def read_through(
    store: Path, ahead: bool, start: LogPosition | None = None
) -> tuple[Entries, Controls, LogSurvey]:
    entries: Entries = {}
    controls: Controls = []
    with survey_log(store, later=True, start=start) as log:
        for view, extent, walked in log.read_through(ahead):
            if extent.entries:
                entries.update((entry.lsn, entry.data) for entry in view.read(extent, walked))
            controls += view.controls_in(extent, walked)
        return entries, controls, log


def check_same(store: Path, ahead: bool) -> None:
    entries, controls, judged = read_at_once(store)
    also_entries, also_controls, also_judged = read_through(store, ahead)
    assert also_entries == entries
    assert also_controls == controls
    assert also_judged.damage == judged.damage
    assert also_judged.torn_tail == judged.torn_tail
    assert also_judged.closed == judged.closed
    assert also_judged.end_lsn == judged.end_lsn
    assert also_judged.end_may_be_lost == judged.end_may_be_lost


@pytest.mark.parametrize("ahead", [False, True])
def test_a_whole_log(written: Path, ahead: bool) -> None:
    assert len(list((written / "wal").glob("*.wal"))) > 1
    assert not list((written / "sst").iterdir())
    check_same(written, ahead)


@settings(max_examples=60, deadline=None)
@given(
    areas=st.lists(
        st.tuples(
            st.integers(0, 4),
            st.integers(0, SEGMENT_SIZE - 1),
            st.sampled_from([1, 512, 4_096, 70_000, 1_500_000]),
        ),
        min_size=1,
        max_size=3,
    ),
    ahead=st.booleans(),
)
def test_a_damaged_log(
    written: Path,
    tmp_path_factory: pytest.TempPathFactory,
    areas: list[tuple[int, int, int]],
    ahead: bool,
) -> None:
    store = tmp_path_factory.mktemp("damaged") / "store"
    shutil.copytree(written, store)
    try:
        segments = sorted((store / "wal").glob("*.wal"))
        for index, offset, size in areas:
            with segments[index % len(segments)].open("r+b") as file:
                file.seek(offset)
                file.write(random.Random(offset).randbytes(min(size, SEGMENT_SIZE - offset)))
        check_same(store, ahead)
    finally:
        shutil.rmtree(store)


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    segment=st.integers(0, 4),
    block=st.integers(2, SEGMENT_SIZE // 4096 - 1),
    ahead=st.booleans(),
)
def test_whatever_is_said_of_where_to_begin(
    written: Path, data: st.DataObject, segment: int, block: int, ahead: bool
) -> None:
    """Nothing above the LSN is missed, whether a group starts there or not."""
    entries, _, judged = read_at_once(written)
    views = [view for view in judged.views if view.extents]
    view = views[segment % len(views)]
    extent = data.draw(st.sampled_from(view.extents))
    lsn, offset = data.draw(
        st.sampled_from(
            [
                (extent.first_lsn - 1, extent.start),
                (extent.last_lsn, extent.end),
                (extent.first_lsn, extent.start),
                (max(extent.first_lsn, 2) - 2, extent.start),
                (extent.last_lsn, block * 4096),
                (extent.last_lsn, 1 << 40),
            ]
        )
    )
    assert view.file.header is not None
    found, _, log = read_through(written, ahead, LogPosition(lsn, view.file.header.salt, offset))
    assert {lsn_: found[lsn_] for lsn_ in found if lsn_ > lsn} == {
        lsn_: entries[lsn_] for lsn_ in entries if lsn_ > lsn
    }
    assert found.items() <= entries.items()
    assert not log.damage
    assert log.closed == judged.closed
    assert log.end_lsn == judged.end_lsn


def test_opening_begins_where_the_manifest_says(store: Path) -> None:
    """And it says that of what a flush has moved to a table: what is before it is not read any more."""
    with kifa.open(store) as log:
        log.append_many([b"%d" % number for number in range(1, 1_001)])
        log.flush()
        log.append_many([b"%d" % number for number in range(1_001, 1_011)])
    manifest = load_manifest(store)
    assert manifest is not None
    assert manifest.checkpoint_end is not None
    assert manifest.checkpoint_end.lsn == manifest.checkpoint_lsn == 1_000
    entries, _, survey = read_through(store, False, manifest.checkpoint_end)
    assert sorted(entries) == list(range(1_001, 1_011))
    assert survey.closed
    with kifa.open(store) as log:
        assert not log.damage
        assert log.last_lsn == 1_010
    # It stays what it was until the next flush, and then is in the next segment.
    manifest = load_manifest(store)
    assert manifest is not None
    assert manifest.checkpoint_end is not None
    assert manifest.checkpoint_end.lsn == 1_000
    with kifa.open(store) as log:
        log.append(b"1011")
        log.flush()
        log.append(b"1012")
    after = load_manifest(store)
    assert after is not None
    assert after.checkpoint_end is not None
    assert after.checkpoint_end.lsn == 1_011
    assert after.checkpoint_end.salt != manifest.checkpoint_end.salt
    assert [int(data) for _, data in read_all(store)] == list(range(1, 1_013))


def test_where_to_begin_does_not_count_if_a_table_is_gone(store: Path) -> None:
    with kifa.open(store) as log:
        log.append_many([b"%d" % number for number in range(1, 101)])
        log.flush()
        log.append(b"101")
    for table in (store / "sst").iterdir():
        table.unlink()
    with kifa.open(store) as log:
        assert log.last_lsn == 101
        assert not [damage for damage in log.damage if damage.costs_entries]
    assert [int(data) for _, data in read_all(store)] == list(range(1, 102))


def test_a_manifest_without_it_is_understood(store: Path) -> None:
    with kifa.open(store) as log:
        log.append(b"1")
        log.flush()
        log.append(b"2")
    manifest = load_manifest(store)
    assert manifest is not None
    write_manifest(store, manifest._replace(checkpoint_end=None))
    with kifa.open(store) as log:
        assert log.last_lsn == 2


def test_a_large_log_is_read_ahead(store: Path) -> None:
    """More than opening reads on one thread, and more memtables than it keeps."""
    script = """
import os, signal, sys, kifa
log = kifa.open(sys.argv[1], segment_size_mib=32, memtable_flush_threshold_mib=1024)
for _ in range(70):
    log.append_many([b"%d " % (log.last_lsn + 1 + i) + bytes(9_900) for i in range(100)])
os.kill(os.getpid(), signal.SIGKILL)
"""
    run_python(script, str(store))
    sizes = [path.stat().st_size for path in (store / "wal").glob("*.wal")]
    assert sum(sizes) >= LARGE_LOG_SIZE_BYTES
    with kifa.open(store) as log:
        assert log.last_lsn == 7_000
        assert not log.damage
    assert [int(data.split()[0]) for _, data in read_all(store)] == list(range(1, 7_001))


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, OSError])
def test_what_ends_the_reading_is_no_end_of_the_segment(
    written: Path, error: type[BaseException]
) -> None:
    """Else what is behind would count as torn or lost, and its LSNs would be used again."""
    file = list_segments(written)[0]
    content = (written / file.name).read_bytes()

    def chunks() -> Iterator[memoryview]:
        yield memoryview(content)[DATA_OFFSET : DATA_OFFSET + (64 << 10)]
        raise error

    scanner = file.scanner()
    scanner.begin(chunks=chunks())
    with pytest.raises(error):
        list(iter(scanner.next_extent, None))
    file.close()


def test_a_short_read_is_no_end_of_the_segment(written: Path) -> None:
    file = list_segments(written)[0]
    content = (written / file.name).read_bytes()

    def extents(chunks: Iterator[memoryview] | None) -> list[str]:
        scanner = file.scanner()
        scanner.begin(chunks=chunks)
        return [repr(extent) for extent in iter(scanner.next_extent, None)]

    short = memoryview(content)[DATA_OFFSET : DATA_OFFSET + (64 << 10) + 1]
    assert extents(iter([short])) == extents(None)
    assert len(extents(None)) > 1
    file.close()
