"""Reading a store: selections against a model, beside a writer, and damaged."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kifa
from kifa import background
from kifa._batch import Entry
from kifa.errors import DamagedError, NotAStoreError, UsageError
from kifa.query import Reader, Selection
from kifa.snapshot import Snapshot, add_range, explain_missing
from tests.conftest import run_python
from tests.stores import files_of, lsns_named, make_store, read_all, sample

MIB = 1 << 20


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tables and a WAL; 600 entries."""
    path = tmp_path_factory.mktemp("query") / "store"
    make_store(path, [sample(n, 700, n) for n in (100, 1, 299, 200)])
    with Snapshot.take(path) as snapshot:
        assert len(snapshot.tables) == 3
        assert snapshot.end_lsn == 600
    return path


BOUND = st.one_of(st.none(), st.integers(0, 605))


@settings(max_examples=200, deadline=None)
@given(
    from_lsn=BOUND,
    to_lsn=BOUND,
    times=st.tuples(BOUND, BOUND),
    limit=st.one_of(st.none(), st.integers(0, 700)),
    reverse=st.booleans(),
)
def test_every_selection_is_that_of_a_list(
    store: Path,
    from_lsn: int | None,
    to_lsn: int | None,
    times: tuple[int | None, int | None],
    limit: int | None,
    reverse: bool,
) -> None:
    everything = read_all(store)[0]
    from_time, to_time = (
        None if at is None else everything[min(at, 599)].timestamp_ms for at in times
    )
    if (from_lsn or 0) > (605 if to_lsn is None else to_lsn) or (
        from_time is not None and to_time is not None and from_time > to_time
    ):
        return
    expected = [
        entry
        for entry in everything
        if (from_lsn is None or entry.lsn >= from_lsn)
        and (to_lsn is None or entry.lsn <= to_lsn)
        and (from_time is None or entry.timestamp_ms >= from_time)
        and (to_time is None or entry.timestamp_ms <= to_time)
    ]
    expected = expected[::-1] if reverse else expected
    reader = Reader(store)
    found = list(reader.entries(from_lsn, to_lsn, from_time, to_time, limit, reverse))
    assert found == expected[:limit]


def test_what_was_written_is_read(store: Path) -> None:
    data = [item for n in (100, 1, 299, 200) for item in sample(n, 700, n)]
    entries = list(kifa.reader(store).entries())
    assert [entry.lsn for entry in entries] == list(range(1, 601))
    assert [entry.data for entry in entries] == data


def test_get(store: Path) -> None:
    reader = kifa.reader(str(store))
    assert reader.get(0) is None
    entry = reader.get(101)
    assert entry is not None
    assert (entry.lsn, entry.data) == (101, sample(1, 700, 1)[0])
    assert reader.get(600) is not None
    assert reader.get(601) is None


def test_reading_changes_nothing(store: Path) -> None:
    before = files_of(store)
    reader = kifa.reader(store)
    assert len(list(reader.entries(reverse=True))) == 600
    reader.stats()
    reader.verify()
    assert files_of(store) == before


@pytest.mark.parametrize(
    "bounds",
    [
        {"from_lsn": 2, "to_lsn": 1},
        {"from_time": 2, "to_time": 1},
        {"limit": -1},
        {"from_lsn": 2**64},
        {"to_time": -1},
    ],
)
def test_impossible_ranges_are_refused(store: Path, bounds: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        kifa.reader(store).entries(**bounds)  # type: ignore[arg-type]


def test_no_store_is_an_error_and_none_is_created(tmp_path: Path) -> None:
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(NotAStoreError):
            kifa.reader(path)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_store_has_no_entries(tmp_path: Path) -> None:
    make_store(tmp_path / "store", [])
    reader = kifa.reader(tmp_path / "store")
    assert list(reader.entries()) == []
    assert list(reader.entries(reverse=True)) == []
    assert reader.get(1) is None


def test_a_closed_reader_leaves_no_descriptors(store: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    entries = kifa.reader(store).entries()
    next(entries)
    entries.close()  # type: ignore[attr-defined]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


WRITER = """
import sys, kifa
with kifa.open(sys.argv[1], segment_size_mib=1, memtable_flush_threshold_mib=1, compaction_threshold=2) as log:
    print("ready", flush=True)
    n = 0
    while n < 60000:
        n = log.append_many(b"%d " % (n + i + 1) * 40 for i in range(500))[-1]
        print(n, flush=True)
"""


def test_reading_beside_a_writer_that_recycles_and_compacts(tmp_path: Path) -> None:
    """Each read is a gapless prefix that holds at least what was acknowledged before it began."""
    path = tmp_path / "store"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    with writer, writer.stdout as acknowledgements:
        assert acknowledgements.readline() == "ready\n"
        reader = kifa.reader(path)
        acknowledged = 0
        for line in acknowledgements:
            acknowledged = int(line)
            if acknowledged % 7 and acknowledged < 60_000:
                continue
            expected = 0
            for entry in reader.entries(from_lsn=max(acknowledged - 20_000, 1)):
                expected = expected or entry.lsn
                assert entry.lsn == expected
                assert entry.data == b"%d " % entry.lsn * 40
                expected += 1
            assert expected > acknowledged
            newest = next(reader.entries(limit=1, reverse=True))
            assert newest.lsn >= acknowledged
    assert writer.returncode == 0
    assert acknowledged == 60_000
    assert reader.stats().total_entries == 60_000
    assert reader.verify().intact


def test_a_slow_reader_outlives_compaction_and_recycling(tmp_path: Path) -> None:
    path = tmp_path / "store"
    data = sample(3000, 500)
    with kifa.open(path, segment_size_mib=1, compaction_enabled=False) as log:
        log.append_many(data[:1000])
        log.flush()
        log.append_many(data[1000:2000])
        entries = kifa.reader(path).entries()
        found = [next(entries)]
        for start in range(2000, 3000, 100):
            log.append_many(data[start : start + 100])
            log.flush()
        log.compact()
        for file in (path / "sst").iterdir():
            assert file.suffix == ".sst"
        found += entries
    assert [entry.data for entry in found] == data[:2000]


def test_more_tables_than_a_process_may_open(tmp_path: Path) -> None:
    path = tmp_path / "store"
    data = make_store(path, [[b"%d" % n] for n in range(300)])
    limited = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n"
    script = "import sys, kifa; reader = kifa.reader(sys.argv[1])\n"
    script += "found = [entry.data for entry in reader.entries()]\n"
    script += "assert found[::-1] == [entry.data for entry in reader.entries(reverse=True)]\n"
    script += "assert reader.verify().intact and reader.stats().tables >= 299\n"
    script += "log = kifa.open(sys.argv[1], compaction_enabled=False); log.close()\n"
    script += "sys.stdout.buffer.write(b' '.join(found))"
    output = subprocess.run(
        [sys.executable, "-c", limited + script, path], capture_output=True, check=True
    )
    assert output.stdout.split() == data


class Damaged:
    """A small store: two tables and a WAL of a few groups.

    With ``reopen`` the tables' entries are in no segment any more; without, they are in tables and WAL.
    """

    def __init__(self, path: Path, *, reopen: bool) -> None:
        self.path = path
        runs = [[sample(4, 20, 1)], [sample(3, 20, 2)], [[item] for item in sample(5, 20, 3)]]
        with contextlib.ExitStack() as logs:
            log = logs.enter_context(self._open())
            for number, groups in enumerate(runs):
                if number and reopen:
                    logs.close()
                    log = logs.enter_context(self._open())
                for group in groups:
                    log.append_many(group)
                if number < 2:
                    log.flush()
        self.entries = read_all(path)[0]
        self.files = {
            file: content for file, content in files_of(path).items() if file.suffix != ".spare"
        }
        assert [entry.lsn for entry in self.entries] == list(range(1, 13))

    def _open(self) -> kifa.Log:
        return kifa.open(self.path, segment_size_mib=1, compaction_enabled=False)

    def check(self) -> None:
        """What is served is right; what is not served is named, and nothing else; both directions agree."""
        served, damage = read_all(self.path)
        by_lsn = {entry.lsn: entry for entry in self.entries}
        lsns = [entry.lsn for entry in served]
        assert lsns == sorted(set(lsns))
        assert all(by_lsn[entry.lsn] == entry for entry in served)
        lost = set(by_lsn) - set(lsns)
        assert lost <= lsns_named(damage)
        assert not set(lsns) & lsns_named(damage)
        backward, damage_backward = read_all(self.path, Selection(reverse=True))
        assert backward == served[::-1]
        assert lsns_named(damage_backward) == lsns_named(damage)

    def restore(self, file: Path) -> None:
        file.write_bytes(self.files[file])


@pytest.fixture(scope="module", params=[False, True], ids=["one run", "reopened"])
def small(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Damaged:
    return Damaged(tmp_path_factory.mktemp("damaged") / "store", reopen=request.param)


def interesting_offsets(content: bytes) -> list[int]:
    """Offsets of a file that are not in a long stretch of zeros."""
    return [i for i in range(len(content)) if any(content[max(i - 16, 0) : i + 17])]


def test_flipped_bits_cost_at_most_what_they_hit(small: Damaged) -> None:
    for file, content in small.files.items():
        if file.name == "lock":
            continue
        for offset in interesting_offsets(content)[:: 17 if file.suffix == ".wal" else 5]:
            flipped = bytearray(content)
            flipped[offset] ^= 1 << offset % 8
            file.write_bytes(flipped)
            small.check()
        small.restore(file)


def test_missing_files_are_named(small: Damaged) -> None:
    for file in small.files:
        if file.name == "lock":
            continue
        file.unlink()
        small.check()
        if file.suffix == ".sst":
            report = Reader(small.path).verify()
            assert [damage.kind for damage in report.damage] == ["missing file"]
        small.restore(file)


def test_truncated_files_are_named(small: Damaged) -> None:
    for file, content in small.files.items():
        for size in (0, 1, 100, 4096, 8192, 8300, 20_000, len(content) - 1):
            if size < len(content):
                file.write_bytes(content[:size])
                small.check()
        small.restore(file)


def test_a_lost_block_is_taken_from_a_superseded_table(tmp_path: Path) -> None:
    path = tmp_path / "store"
    data = make_store(path, [sample(100, 2000, 1), sample(100, 2000, 2), []])
    inputs = files_of(path / "sst")
    with kifa.open(path, compaction_threshold=2) as log:
        log.compact()
    (merged,) = (path / "sst").iterdir()
    for file, content in inputs.items():
        file.write_bytes(content)
    damaged = bytearray(merged.read_bytes())
    damaged[5000] ^= 1
    merged.write_bytes(damaged)
    served, damage = read_all(path)
    assert [entry.data for entry in served] == data
    assert damage == []
    report = kifa.reader(path).verify()
    assert [item.file for item in report.damage] == [f"sst/{merged.name}"]
    assert report.lost == ()
    assert report.entries == 200


def test_damage_outside_the_range_is_not_in_the_way(tmp_path: Path) -> None:
    small = Damaged(tmp_path / "store", reopen=True)
    table = sorted(file for file in small.files if file.suffix == ".sst")[0]
    content = bytearray(small.files[table])
    content[130] ^= 1
    table.write_bytes(content)
    reader = Reader(small.path)
    assert [entry.lsn for entry in reader.entries(from_lsn=5)] == list(range(5, 13))
    with pytest.raises(DamagedError) as caught:
        list(reader.entries(from_lsn=2, to_lsn=6))
    assert lsns_named(caught.value.damage) == {2, 3, 4}
    with pytest.raises(DamagedError):
        reader.get(1)


RANGE = st.tuples(st.integers(1, 40), st.integers(0, 9)).map(lambda r: (r[0], r[0] + r[1]))


@given(missing=st.sets(st.integers(1, 60)), known=st.lists(RANGE, max_size=6))
def test_every_missing_lsn_is_explained_once(
    missing: set[int], known: list[tuple[int, int]]
) -> None:
    ranges: list[tuple[int, int]] = []
    for lsn in sorted(missing):
        add_range(ranges, lsn, lsn)
    causes = [kifa.Damage("corruption", "f", 0, first, last, "r") for first, last in known]
    explained = explain_missing(ranges, causes)
    assert sum((item.last_lsn or 0) - (item.first_lsn or 0) + 1 for item in explained) == len(
        missing
    )
    assert lsns_named(explained) == missing
    covered = {lsn for first, last in known for lsn in range(first, last + 1)}
    assert lsns_named([item for item in explained if item.file]) == missing & covered


def test_entries_are_named_tuples(store: Path) -> None:
    entry = next(kifa.reader(store).entries())
    assert entry == Entry(1, entry.timestamp_ms, sample(100, 700, 100)[0])


# ---- how much is read -------------------------------------------------------------------------------------

READ_BYTES = """
import sys
from kifa.query import Reader, Selection

def read_so_far():
    return int(open("/proc/self/io").read().split()[1])

reader = Reader(sys.argv[1])
before = read_so_far()
found = [(e.lsn, e.timestamp_ms) for e in reader.entries(**eval(sys.argv[2]))]
print([read_so_far() - before, found])
"""


def read_bytes(path: Path, **selection: object) -> tuple[int, list[tuple[int, int]]]:
    """How many bytes reading a selection takes, and what is in it."""
    result = run_python(READ_BYTES, str(path), repr(selection))
    assert result.returncode == 0, result.stderr
    size, found = eval(result.stdout)
    return size, found


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four segments and no table."""
    path = tmp_path_factory.mktemp("query") / "long"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            background, "FLUSHED_LIVE_SEGMENTS", 5
        )  # else the fourth may be the first, flushed
        with kifa.open(path, segment_size_mib=1, memtable_flush_threshold_mib=64) as log:
            for _ in range(40):
                log.append_many(sample(100, 900))
    assert len(list((path / "wal").glob("*.wal"))) == 4
    assert not list((path / "sst").iterdir())
    return path


def test_the_end_of_the_log_needs_its_newest_segment_only(long_log: Path) -> None:
    everything, found = read_bytes(long_log)
    assert [lsn for lsn, _ in found] == list(range(1, 4001))
    size, last = read_bytes(long_log, reverse=True, limit=10)
    assert [lsn for lsn, _ in last] == list(range(4000, 3990, -1))
    assert size < 1.3 * MIB < everything / 5
    size, first = read_bytes(long_log, limit=10)
    assert [lsn for lsn, _ in first] == list(range(1, 11))
    assert size < 2.6 * MIB  # the oldest and the newest


def test_a_window_of_time_decodes_only_what_is_in_it(long_log: Path) -> None:
    everything, found = read_bytes(long_log)
    at = found[2000][1]
    size, window = read_bytes(long_log, from_time=at, to_time=at)
    assert window == [entry for entry in found if entry[1] == at]
    assert size < everything * 0.75  # each segment is judged once, little is read again
    nothing, none = read_bytes(long_log, from_time=0, to_time=1)
    assert none == []
    assert nothing < everything * 0.6


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_damage_in_a_segment_that_is_read_late(
    long_log: Path, tmp_path: Path, index: int, reverse: bool
) -> None:
    path = tmp_path / "store"
    shutil.copytree(long_log, path)
    segment = sorted((path / "wal").glob("*.wal"))[index]
    with segment.open("r+b") as file:
        file.seek(8192 + 200_000)
        file.write(b"rot" * 400)
    entries, damage = read_all(path, Selection(reverse=reverse))
    missing = set(range(1, 4001)) - {entry.lsn for entry in entries}
    assert len(missing) in (2, 3)
    assert lsns_named(damage) == missing
    assert {item.file for item in damage} == {f"wal/{segment.name}"}
    # What was read before the damage was found is not read twice.
    assert [e.lsn for e in entries] == sorted((e.lsn for e in entries), reverse=reverse)
    # A selection without them is whole.
    low = min(missing)
    assert len(list(Reader(path).entries(to_lsn=low - 1))) == low - 1
