"""Group commit under threads that get in each other's way."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import pytest

import kifa
from kifa import control
from kifa._lines import LineBuffer
from kifa.judgement import survey_log
from kifa.segments import DATA_OFFSET, RECORD_OVERHEAD
from tests.reading import read_all


def test_a_batch_beside_threads_that_sync(store: Path) -> None:
    """What fills a group may be in flight before the batch asks for it; there is nothing to sync then."""
    expected = []
    with kifa.open(store, segment_size_mib=1, channel_capacity=1) as log:
        done = threading.Event()

        def sync() -> None:
            while not done.is_set():
                log.sync()

        threads = [threading.Thread(target=sync) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for part in range(6):
                # A segment holds two of them: most groups follow a rotation, which closes the file of the one before.
                items = [b"%d %d " % (part, number) + bytes(400_000) for number in range(20)]
                log.append_many(items)
                expected += items
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert [data for _, data in read_all(store)] == expected


def test_what_normal_mode_let_wait_is_synced_when_the_mode_changes(store: Path) -> None:
    with kifa.open(store, flush_mode="normal") as log:
        lsn = log.append(b"waits for more, or for 100 ms")
        log.set_flush_mode("cautious")
        deadline = time.monotonic() + 30
        while log.durable_lsn < lsn:
            assert time.monotonic() < deadline, "nobody syncs it"
            time.sleep(0.001)


def held_line(log: kifa.Log) -> None:
    """Frame a line whose source checkpoint is still to come."""
    lines = LineBuffer()
    lines.feed(b"held\n")
    assert log.frame_lines(lines, hold=True)[1] == 1


def test_the_entry_of_another_thread_leaves_room_for_the_checkpoint_of_held_lines(
    store: Path,
) -> None:
    with kifa.open(store, segment_size_mib=1) as log:
        log.append(bytes(900_000))
        held_line(log)
        left = (1 << 20) - DATA_OFFSET - 901_120 - (RECORD_OVERHEAD + len(b"held"))
        other = threading.Thread(target=log.append, args=(bytes(left - RECORD_OVERHEAD - 16),))
        other.start()
        other.join(
            0.3
        )  # it may have taken all the room by then; it has to wait for the next segment
        log.frame_source_checkpoint("source", 1)
        other.join()
    check_same_group(store)


def test_a_rotation_waits_for_the_checkpoint_of_held_lines(store: Path) -> None:
    with kifa.open(store, segment_size_mib=1) as log:
        lsn = log.append(bytes(900_000))
        held_line(log)
        other = threading.Thread(target=log._rotate)
        other.start()
        other.join(0.3)
        durable_lsn = log.durable_lsn
        log.frame_source_checkpoint("source", 1)
        other.join()
    assert durable_lsn == lsn, "the lines without their checkpoint"
    check_same_group(store)


def test_a_log_whose_held_lines_get_no_checkpoint_can_be_closed(store: Path) -> None:
    """What was to frame it has failed; neither the end may wait for it, nor a rotation that the end waits for."""
    log = kifa.open(store, segment_size_mib=1)
    log.append(bytes(900_000))
    held_line(log)
    other = threading.Thread(target=append_or_be_told, args=(log,), daemon=True)
    other.start()
    other.join(0.1)  # it may be in the rotation by then
    closing = threading.Thread(target=log.close, daemon=True)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()
    other.join(60)
    assert not other.is_alive()
    assert read_all(store)[1] == (2, b"held")


def append_or_be_told(log: kifa.Log) -> None:
    with contextlib.suppress(kifa.ClosedError):
        log.append(bytes(300_000))


def check_same_group(store: Path) -> None:
    """The segment of LSN 2 has the source checkpoint as well, with the LSN of an entry that is in it."""
    with survey_log(store) as log:
        of_line = next(view for view in log.views if view.file.first_lsn <= 2 <= view.last_lsn)
        kinds = [kind for kind, *_ in of_line.controls()]
    assert control.SOURCE_CHECKPOINT in kinds


def test_who_comes_upon_a_rotation_waits_for_it(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It used to rotate as well, which held up the next: 100 ms after each rotation."""
    rotations: list[int] = []
    with kifa.open(store, segment_size_mib=1) as log:
        rotate_log = log._rotate

        def counted() -> None:
            rotations.append(threading.get_ident())
            rotate_log()

        log.append(b"x" * 600_000)
        others = [threading.Thread(target=log.append, args=(b"late",)) for _ in range(4)]
        rotate_pool = log._pool.rotate

        def rotate_slowly(*arguments: object) -> object:
            for other in others:
                other.start()
            others[0].join(0.3)
            return rotate_pool(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(log, "_rotate", counted)
        monkeypatch.setattr(log._pool, "rotate", rotate_slowly)
        log.append(b"x" * 600_000)
        for other in others:
            other.join(timeout=30)
        assert rotations == [threading.get_ident()]
        assert log.durable_lsn == log.last_lsn == 6
