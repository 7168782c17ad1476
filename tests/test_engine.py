"""The log, used as an application would."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import kifa
from kifa._lines import LineBuffer
from kifa._wal import DRAINED
from kifa.background import Background
from kifa.manifest import load_manifest
from tests.reading import read_all

LARGE = 1 << 20


def test_an_append_is_durable_and_readable(store: Path) -> None:
    with kifa.open(store) as log:
        assert [log.append(b"one"), log.append(b""), log.append(b"\x00\xff\n")] == [1, 2, 3]
        assert log.durable_lsn == log.last_lsn == 3
        assert [data for _, data in read_all(store)] == [b"one", b"", b"\x00\xff\n"]


def test_lsns_go_on_after_reopening(store: Path) -> None:
    for expected in range(1, 6):
        with kifa.open(store) as log:
            assert log.append(b"x") == expected
            assert not log.damage


def appended(error: BaseException) -> Any:
    """What `append_many` stored before it failed."""
    return error.appended  # type: ignore[attr-defined]


def test_append_many_returns_a_dense_range(store: Path) -> None:
    items = [b"%d" % i for i in range(40_000)]
    with kifa.open(store) as log:
        log.append(b"first")
        assert log.append_many(items) == range(2, 40_002)
        assert log.append_many([]) == range(40_002, 40_002)
        assert log.append_many(iter([bytearray(b"a"), memoryview(b"b")])) == range(40_002, 40_004)
    assert [data for _, data in read_all(store)] == [b"first", *items, b"a", b"b"]


def test_large_entries_fit_small_segments(store: Path) -> None:
    with kifa.open(store, segment_size_mib=1) as log:
        for byte in b"abcdef":
            log.append(bytes([byte]) * LARGE)
        with pytest.raises(kifa.EntryTooLargeError):
            log.append(b"x" * (LARGE + 1))
        assert log.append(b"after") == 7
    assert [len(data) for _, data in read_all(store)] == [LARGE] * 6 + [5]


def test_an_item_too_large_keeps_those_before_it(store: Path) -> None:
    with kifa.open(store) as log:
        with pytest.raises(kifa.EntryTooLargeError) as refused:
            log.append_many([b"a", b"b", b"x" * (LARGE + 1), b"c"])
        assert appended(refused.value) == range(1, 3)
        assert log.durable_lsn == 2
    assert [data for _, data in read_all(store)] == [b"a", b"b"]


@pytest.mark.parametrize("good", [0, 3, 20_000])
@pytest.mark.parametrize("bad", [5, "text", None, 1.5, [1, 2]])
def test_an_item_that_is_not_bytes_keeps_those_before_it(bad: Any, good: int, store: Path) -> None:
    with kifa.open(store) as log:
        with pytest.raises(TypeError) as refused:
            log.append_many([b"a"] * good + [bad, b"after"])
        assert appended(refused.value) == range(1, good + 1)
        assert log.last_lsn == log.durable_lsn == good
        assert log.append_many([b"more"]) == range(good + 1, good + 2)
    assert [data for _, data in read_all(store)] == [b"a"] * good + [b"more"]


def test_threads_share_syncs_and_lose_nothing(store: Path) -> None:
    acked: dict[int, bytes] = {}

    def append(name: int) -> None:
        for i in range(200):
            data = b"%d:%d" % (name, i)
            acked[log.append(data)] = data

    with kifa.open(store, segment_size_mib=1) as log:
        threads = [threading.Thread(target=append, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        batch = log.append_many([b"batch"] * 500)
        for thread in threads:
            thread.join()
        acked.update(dict.fromkeys(batch, b"batch"))
    assert sorted(acked) == list(range(1, 8 * 200 + 501))
    assert dict(read_all(store)) == acked


def test_normal_mode_leaves_at_most_49_entries_at_risk(store: Path) -> None:
    with kifa.open(store, flush_mode="normal") as log:
        for _ in range(500):
            assert log.append(b"x") - log.durable_lsn <= 49
        log.sync()
        assert log.durable_lsn == 500


def test_normal_mode_syncs_a_lone_entry_by_itself(store: Path) -> None:
    with kifa.open(store, flush_mode="normal") as log:
        log.append(b"x")
        event = os.eventfd(0)
        log.notify_on(event)
        if log.durable_lsn == 0:
            assert os.eventfd_read(event) == 1
        assert log.durable_lsn == 1
        log.notify_on(-1)
        os.close(event)


def test_flush_and_compaction_keep_every_entry(store: Path) -> None:
    expected = []
    with kifa.open(store, segment_size_mib=1, compaction_threshold=2) as log:
        for round_number in range(30):
            items = [b"%d-%d" % (round_number, i) * 20 for i in range(300)] + [
                bytes([round_number]) * 200_000
            ]
            log.append_many(items)
            expected += items
            log.flush()
        log.compact()
        assert len(list((store / "sst").iterdir())) < 30
        assert len(list((store / "wal").glob("*.wal"))) <= 5
    assert [data for _, data in read_all(store)] == expected


def test_live_segments_stay_few_whatever_is_written(store: Path) -> None:
    with kifa.open(store, segment_size_mib=1, memtable_flush_threshold_mib=64) as log:
        for _ in range(2_000):
            log.append(b"x" * 100)
        log.flush()
        assert len(list((store / "wal").glob("*.wal"))) <= 5
    assert len(read_all(store)) == 2_000


def test_a_hundred_opens_leave_few_files(store: Path) -> None:
    for i in range(30):
        with kifa.open(store, segment_size_mib=1) as log:
            if i % 2:
                log.append(b"x")
    with kifa.open(store, segment_size_mib=1) as log:
        log.flush()
        assert len(list((store / "wal").iterdir())) <= 10
    assert len(read_all(store)) == 15


def test_a_second_writer_is_refused(store: Path) -> None:
    with kifa.open(store), pytest.raises(kifa.LockedError):
        kifa.open(store)


def test_nobody_writes_until_a_rotation_is_over(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the end of the rotation would take the group in flight for its own, and a second one could be written."""
    with kifa.open(store, segment_size_mib=1) as log:
        log.append(b"x" * 600_000)
        threads: list[threading.Thread] = []
        waits: list[bool] = []
        close, old_segment = os.close, log._descriptor

        def close_slowly(descriptor: int) -> None:
            if descriptor == old_segment and not threads:
                threads.append(threading.Thread(target=log.append, args=(b"another thread's",)))
                threads[0].start()
                threads[0].join(0.3)
                waits.append(threads[0].is_alive())
            close(descriptor)

        monkeypatch.setattr(os, "close", close_slowly)
        log.append(b"x" * 600_000)
        monkeypatch.undo()
        assert waits == [True]
        threads[0].join(timeout=30)
        assert log.durable_lsn == log.last_lsn == 3


def test_closing_waits_for_a_rotation_and_none_comes_after_it(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = kifa.open(store, segment_size_mib=1)
    log.append(b"x" * 600_000)
    closing = threading.Thread(target=log.close)
    waits: list[bool] = []
    rotate = log._pool.rotate

    def rotate_slowly(*arguments: object) -> object:
        closing.start()
        closing.join(0.3)
        waits.append(closing.is_alive())
        return rotate(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(log._pool, "rotate", rotate_slowly)
    with contextlib.suppress(kifa.ClosedError):
        log.append(b"x" * 600_000)
    closing.join(timeout=30)
    assert waits == [True]
    segments = sorted((store / "wal").iterdir())
    with pytest.raises(kifa.ClosedError):
        log._rotate()
    assert sorted((store / "wal").iterdir()) == segments


def test_a_forked_child_does_not_keep_the_next_writer_out(store: Path) -> None:
    script = """
import os, signal, sys, kifa
log = kifa.open(sys.argv[1])
log.append(b"parent")
child = os.fork()
if child == 0:
    os.write(1, b"%d\\n" % os.getpid())
    os.close(1)
    os.read(0, 1)
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        process.wait(timeout=30)
        os.kill(child, 0)  # it is there, and has what it inherited
        with kifa.open(store) as log:
            assert log.append(b"next") == 2


def test_a_forked_child_cannot_use_the_log(store: Path) -> None:
    with kifa.open(store) as log:
        log.append(b"parent")
        child = os.fork()
        if child == 0:
            try:
                log.append(b"child")
            except kifa.ForkedError:
                log.close()
                os._exit(0)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert log.append(b"parent again") == 2
    assert [data for _, data in read_all(store)] == [b"parent", b"parent again"]


def test_a_closed_log_refuses(store: Path) -> None:
    log = kifa.open(store)
    log.append(b"x")
    log.close()
    log.close()
    with pytest.raises(kifa.ClosedError):
        log.append(b"y")
    with pytest.raises(kifa.ClosedError):
        log.flush()
    with pytest.raises(kifa.ClosedError):
        log.sync()


@pytest.mark.parametrize(
    "setting",
    [
        {"flush_mode": "fast"},
        {"segment_size_mib": 0},
        {"memtable_flush_threshold_mib": 0},
        {"compaction_threshold": 1},
        {"segment_size_mib": "16"},
    ],
)
def test_a_wrong_setting_is_named(store: Path, setting: dict[str, object]) -> None:
    with pytest.raises(kifa.UsageError, match=next(iter(setting))):
        kifa.open(store, **setting)  # type: ignore[arg-type]
    assert not store.exists()


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(kifa.UnwritableError):
        kifa.open(tmp_path / "file" / "store")


def test_source_checkpoints_survive_flush_and_reopening(store: Path) -> None:
    from kifa._lines import LineBuffer

    with kifa.open(store) as log:
        lines = LineBuffer()
        lines.feed(b"a\nb\r\nc")
        first, count, _, _ = log.frame_lines(lines, hold=True)
        log.frame_source_checkpoint("file:/x", {"offset": lines.consumed_bytes})
        log.sync()
        assert (first, count, lines.consumed_bytes) == (1, 2, 5)
    with kifa.open(store) as log:
        assert log.sources == {"file:/x": {"offset": 5}}
        log.flush()
    for path in (store / "manifest", *(store / "wal").iterdir()):
        path.unlink()
    with kifa.open(store) as log:
        assert log.sources == {"file:/x": {"offset": 5}}
    assert [data for _, data in read_all(store)] == [b"a", b"b"]


def test_the_manifest_names_no_position_whose_lines_may_be_lost(tmp_path: Path) -> None:
    with kifa.open(tmp_path) as log:
        lines = LineBuffer()
        lines.feed(b"a line\n")
        log.frame_lines(lines, hold=True)
        log.frame_source_checkpoint("file", 7)
        log._tables.publish()
        manifest = load_manifest(tmp_path)
        assert manifest is not None
        assert manifest.sources == {}
        log.flush()
        manifest = load_manifest(tmp_path)
        assert manifest is not None
        assert manifest.sources == {"file": 7}


def test_a_log_that_is_open_for_moments_collects_no_tables(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compaction thread may get its first turn when the log is being closed already."""
    run = Background._run_compactions

    def late(background: Background) -> None:
        background._closing.wait()
        run(background)

    monkeypatch.setattr(Background, "_run_compactions", late)
    for number in range(12):
        with kifa.open(store, segment_size_mib=1, compaction_threshold=3) as log:
            log.append(b"%d" % number)
            log.flush()
        assert len(list((store / "sst").iterdir())) < 3
    assert read_all(store) == [(n + 1, b"%d" % n) for n in range(12)]


CHECKPOINTS_BESIDE_OTHERS = """
import sys, threading, kifa
with kifa.open(sys.argv[1]) as log:
    def store_checkpoints():
        for index in range(2_000):
            log.frame_source_checkpoint("source", {"at": index})
    worker = threading.Thread(target=store_checkpoints)
    worker.start()
    while worker.is_alive():
        log.request_commit()
        log._writer.memtable_entries
"""


def test_a_source_checkpoint_and_another_thread_never_wait_for_each_other(store: Path) -> None:
    # One held the mutex and waited for the interpreter's lock, the other the reverse: all threads stood still.
    command = [sys.executable, "-c", CHECKPOINTS_BESIDE_OTHERS, str(store)]
    assert subprocess.run(command, timeout=120, check=False).returncode == 0


def test_lines_never_come_into_a_batch(store: Path) -> None:
    """A batch may begin while another thread waits, in the middle of its lines, for a memtable to be flushed."""
    with kifa.open(store, memtable_flush_threshold_mib=1) as log:
        log.start_committer()
        ranges: list[tuple[int, int]] = []

        def store_lines() -> None:
            lines = LineBuffer()
            for _ in range(10):
                lines.feed((b"y" * 200 + b"\n") * 20_000)
                reason = -1
                while reason != DRAINED:
                    first, count, reason, _ = log.frame_lines(lines)
                    ranges.append((first, first + count))

        worker = threading.Thread(target=store_lines)
        worker.start()
        while worker.is_alive():
            lsns = log.append_many([b"x" * 200] * 2_000)
            ranges.append((lsns.start, lsns.stop))
        worker.join()
    got = sorted(lsns for lsns in ranges if lsns[0] < lsns[1])
    assert all(stop == start for (_, stop), (start, _) in itertools.pairwise(got))


def test_a_flush_gives_the_next_segment_where_three_are_live(store: Path) -> None:
    """Instead of one that is made of zeros: all of its size would be written once more."""
    wal = store / "wal"
    with kifa.open(store, segment_size_mib=1, memtable_flush_threshold_mib=64) as log:
        for _ in range(3):
            log.append_many([bytes(400_000)] * 2)
            deadline = time.monotonic() + 30
            while not list(wal.glob("*.spare")):
                assert time.monotonic() < deadline
                time.sleep(0.005)
        assert len(list(wal.iterdir())) == 3
        manifest = load_manifest(store)
        assert manifest is not None
        assert manifest.checkpoint_lsn >= 4
