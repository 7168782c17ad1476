"""`kifa query --follow` beside the real writer: everything, once, in order, and only what is durable."""

from __future__ import annotations

import errno
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kifa
import kifa.follow
from kifa.errors import Damage, DamagedError, NotAStoreError, UsageError
from kifa.follow import Follower, follow_entries, only_last
from kifa.query import Reader, Selection
from kifa.segments import DATA_OFFSET, SegmentFile
from tests.daemons import DEADLINE_SECONDS, read_until, start
from tests.stores import sample

SMALL = {
    "segment_size_mib": 1,
    "memtable_flush_threshold_mib": 1,
    "compaction_threshold": 2,
}


@contextmanager
def following(
    store: Path, *options: object, stdout: Any = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    """`kifa query --follow`, with SIGINT as at a terminal."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kifa", "query", "-f", "-d", str(store), *map(str, options)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[bytes], code: int) -> tuple[bytes, bytes]:
    out, err = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == code, err
    return out, err


def new_of(follower: Follower) -> list[tuple[int, bytes]]:
    return [(entry.lsn, entry.data) for batch in follower.ready() for entry in batch]


# ---- the follower beside a writer of the same process: every step of the store, in any order ---------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 40)),
        st.tuples(st.just("large"), st.integers(1, 3)),
        st.tuples(
            st.sampled_from(["flush", "compact", "reopen", "crash", "look", "empty life"]),
            st.just(0),
        ),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS, st.integers(0, 30))
def test_each_entry_comes_once_whatever_the_store_does(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]], from_lsn: int
) -> None:
    path = tmp_path_factory.mktemp("store")
    log = kifa.open(path, **SMALL)
    written: list[tuple[int, bytes]] = []
    follower = Follower(Reader(path), Selection(from_lsn=from_lsn))
    seen: list[tuple[int, bytes]] = []
    try:
        for step, count in [*steps, ("look", 0)]:
            if step == "append":
                items = [b"%d" % (len(written) + k) for k in range(count)]
                written += zip(log.append_many(items), items, strict=True)
            elif step == "large":
                items = sample(count, 600_000, len(written))
                written += zip(log.append_many(items), items, strict=True)
            elif step in ("flush", "compact"):
                getattr(log, step)()
            elif step in ("reopen", "crash", "empty life"):
                log.close()
                if step == "crash":
                    items = [b"killed %d" % k for k in range(count)]
                    append_and_die(path, items)
                    written += enumerate(items, len(written) + 1)
                if step == "empty life":
                    kifa.open(path, **SMALL).close()
                log = kifa.open(path, **SMALL)
            else:
                seen += new_of(follower)
        assert seen == [entry for entry in written if entry[0] >= from_lsn]
        assert not follower.damage
    finally:
        follower.close()
        log.close()
        shutil.rmtree(path)


def append_and_die(path: Path, items: list[bytes]) -> None:
    process_id = os.fork()
    if process_id == 0:
        log = kifa.open(path, **SMALL)
        for item in items:
            log.append(item)
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1]) == -signal.SIGKILL


def test_what_cannot_be_synced_is_not_shown(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kifa.open(store) as log:
        log.append(b"one")
        follower = Follower(Reader(store), Selection())
        assert new_of(follower) == [(1, b"one")]
        log.append(b"two")
        synced: list[int] = []

        def fail(file: SegmentFile) -> None:
            synced.append(file.descriptor)
            raise OSError(errno.EIO, "no")

        with monkeypatch.context() as patch:
            patch.setattr(SegmentFile, "sync", fail)
            with pytest.raises(OSError, match="no"):
                new_of(follower)
        assert len(synced) == 1
        follower.close()
        follower = Follower(Reader(store), Selection(from_lsn=2))
        assert new_of(follower) == [(2, b"two")]
        follower.close()


def test_damage_is_told_once_and_the_rest_is_followed(store: Path) -> None:
    with kifa.open(store) as log:
        for number in range(3):
            log.append(b"entry %d" % number)
        follower = Follower(Reader(store), Selection())
        flip(store, b"entry 1")
        assert [lsn for lsn, _ in new_of(follower)] == [1, 3]
        assert [(d.first_lsn, d.last_lsn) for d in follower.damage] == [(2, 2)]
        log.append(b"entry 3")
        assert new_of(follower) == [(4, b"entry 3")]
        # Damage where the follower is: the groups behind it prove it.
        log.append(b"entry 4")
        flip(store, b"entry 4")
        assert new_of(follower) == []
        log.append(b"entry 5")
        assert new_of(follower) == [(6, b"entry 5")]
        assert [d.first_lsn for d in follower.damage] == [2, 5]
        follower.close()


def flip(store: Path, data: bytes) -> None:
    for segment in (store / "wal").glob("*.wal"):
        content = segment.read_bytes()
        offset = content.find(data, DATA_OFFSET)
        if offset >= 0:
            with segment.open("r+b") as file:
                file.seek(offset)
                file.write(bytes([data[0] ^ 1]))
                os.fsync(file.fileno())


def test_the_last_ones(store: Path) -> None:
    with kifa.open(store) as log:
        log.append_many([b"%d" % n for n in range(30)])
        log.flush()
        log.append_many([b"%d" % n for n in range(30, 50)])
    reader = Reader(store)
    for count, first in ((0, 51), (1, 50), (10, 41), (25, 26), (99, 1)):
        assert only_last(reader, Selection(), count).from_lsn == first
    assert only_last(reader, Selection(to_lsn=20), 5).from_lsn == 16
    assert only_last(reader, Selection(from_lsn=45), 10).from_lsn == 45
    assert only_last(reader, Selection(from_time=2**50), 10).from_lsn == 1


def test_another_store_in_its_place_is_not_followed(tmp_path: Path) -> None:
    with kifa.open(tmp_path / "a") as log:
        log.append(b"a")
    with kifa.open(tmp_path / "b") as log:
        log.append(b"b")
        log.append(b"b")
    follower = Follower(Reader(tmp_path / "a"), Selection())
    assert new_of(follower) == [(1, b"a")]
    (tmp_path / "a").rename(tmp_path / "old")
    (tmp_path / "b").rename(tmp_path / "a")
    with pytest.raises(NotAStoreError, match="another store"):
        new_of(follower)
    follower.close()


def test_what_cannot_be_followed_is_refused(store: Path) -> None:
    kifa.open(store).close()
    for selection in (Selection(reverse=True), Selection(to_time=1)):
        with pytest.raises(UsageError, match="--follow"):
            Follower(Reader(store), selection)


@pytest.mark.parametrize("cause", ["file system", "no inotify"])
def test_where_changes_are_not_told_it_looks(
    store: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    def no_inotify(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    if cause == "no inotify":
        monkeypatch.setattr(kifa.follow, "Inotify", no_inotify)
    else:
        monkeypatch.setattr(kifa.follow, "unseen_changes", lambda _path: "NFS")
    notices: list[str] = []
    reader, writer = os.pipe()
    with kifa.open(store) as log:
        log.append(b"one")
        thread = threading.Thread(
            target=follow_entries,
            args=(Reader(store), Selection(limit=3), "text", writer, notices.append),
        )
        thread.start()
        with os.fdopen(reader, "rb") as out:
            assert out.readline().endswith(b"one\n")
            for _ in range(2):
                log.append(b"two")
                assert out.readline().endswith(b"two\n")
        thread.join(DEADLINE_SECONDS)
        os.close(writer)
    assert not thread.is_alive()
    assert len(notices) == 1
    assert "looking every" in notices[0]


def test_damage_before_an_end_is_raised(store: Path) -> None:
    with kifa.open(store) as log:
        for number in range(3):
            log.append(b"entry %d" % number)
    flip(store, b"entry 1")
    notices: list[str] = []
    with Path(os.devnull).open("wb") as out, pytest.raises(DamagedError) as caught:
        follow_entries(Reader(store), Selection(to_lsn=3), "json", out.fileno(), notices.append)
    damage: list[Damage] = caught.value.damage
    assert [d.first_lsn for d in damage] == [2]
    assert len(notices) == 1
    assert "LSN 2" in notices[0]


# ---- the command beside the daemon -------------------------------------------------------------------------------


def test_two_followers_miss_nothing_at_full_speed(tmp_path: Path) -> None:
    """Small segments and tables, compaction, a kill and a restart in the middle."""
    store = tmp_path / "store"
    lines = [b"%d %s" % (n, b"x" * (n % 400)) for n in range(150_000)]
    options = ("--segment-size-mib", 1, "--memtable-threshold-mib", 1, "--compaction-threshold", 2)
    kifa.open(store).close()
    outputs = [tmp_path / "text", tmp_path / "hex"]
    with (
        outputs[0].open("wb") as text,
        outputs[1].open("wb") as hexadecimal,
        following(store, "--from-lsn", 1, "--to-lsn", len(lines), stdout=text) as first,
        following(
            store, "-n", 0, "--limit", len(lines), "--format", "hex", stdout=hexadecimal
        ) as second,
    ):
        # Its start is taken when it looks; nothing may be written before.
        wait_until_idle(second)
        with start(store, "--stdin", "--ack", *options) as daemon:
            assert daemon.stdin is not None
            feeder = threading.Thread(target=feed, args=(daemon.stdin, lines))
            feeder.start()
            read_until(daemon.stdout, b"ACK 40000\n")
            daemon.kill()
            feeder.join(DEADLINE_SECONDS)
        with kifa.open(store) as log:
            done = log.last_lsn
        with start(store, "--stdin", *options, stdout=subprocess.DEVNULL) as daemon:
            daemon.communicate(b"\n".join(lines[done:]) + b"\n", timeout=3 * DEADLINE_SECONDS)
            assert daemon.returncode == 0
        finish(first, 0)
        finish(second, 0)
    shown = outputs[0].read_bytes().splitlines()
    pattern = re.compile(rb"\[(\d+)\] \S+ \S+ UTC (.*)")
    found = [match.groups() for line in shown if (match := pattern.fullmatch(line))]
    assert found == [(b"%d" % lsn, data) for lsn, data in enumerate(lines, 1)]
    shown = outputs[1].read_bytes().splitlines()
    assert [bytes.fromhex(line.split()[2].decode()) for line in shown] == lines


def feed(pipe: Any, lines: list[bytes]) -> None:
    try:
        pipe.write(b"\n".join(lines) + b"\n")
        pipe.flush()
    except BrokenPipeError:
        pass


def wait_until_idle(process: subprocess.Popen[bytes]) -> None:
    """Until it waits in epoll: it has nothing to do then."""
    while not re.search("ep_poll|epoll", Path(f"/proc/{process.pid}/wchan").read_text()):
        assert process.poll() is None


def test_it_starts_before_the_first_entry_and_ends_quietly(store: Path) -> None:
    kifa.open(store).close()
    with following(store) as process:
        with kifa.open(store) as log:
            log.append(b"first")
            assert read_until(process.stdout, b"first\n").startswith(b"[1] ")
            log.append_many([b"second", b"third"])
            read_until(process.stdout, b"third\n")
        with kifa.open(store) as log:
            log.append(b"after a restart")
            read_until(process.stdout, b"restart\n")
        process.send_signal(signal.SIGINT)
        assert finish(process, 130) == (b"", b"")


def test_the_last_ten_and_every_format(store: Path) -> None:
    with kifa.open(store) as log:
        log.append_many([b"%d" % n for n in range(1, 21)])
    with following(store, "--limit", 10) as process:
        shown = finish(process, 0)[0].splitlines()
        assert [line.split()[-1] for line in shown] == [b"%d" % n for n in range(11, 21)]
    for name in ("text", "json", "csv", "hex"):
        with following(store, "--from-lsn", 5, "--to-lsn", 20, "--format", name) as process:
            shown = finish(process, 0)[0]
        command = [sys.executable, "-m", "kifa", "query", "-d", str(store), "--format", name]
        assert subprocess.check_output([*command, "--from-lsn", "5"]) == shown
    lines = subprocess.check_output([*command, "-n", "3"]).splitlines()
    assert lines == shown.splitlines()[-3:]


def test_it_leaves_when_nobody_reads_or_the_store_is_gone(store: Path) -> None:
    with kifa.open(store) as log:
        log.append(b"one")
    with following(store) as process:
        read_until(process.stdout, b"one\n")
        assert process.stdout is not None
        process.stdout.close()  # no entry comes: it notices by itself
        assert process.wait(DEADLINE_SECONDS) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    with following(store) as process:
        read_until(process.stdout, b"one\n")
        wait_until_idle(process)
        shutil.rmtree(store)
        out, err = finish(process, 3)
        assert (out, err.count(b"\n")) == (b"", 1)
        assert b"removed" in err


def test_it_sleeps_and_stays_small(store: Path) -> None:
    with kifa.open(store) as log:
        log.append_many([b"x" * 1000] * 4_000)
        log.append(b"last")
    with following(store, "--from-lsn", 1) as process:
        read_until(process.stdout, b"last\n")
        wait_until_idle(process)
        before = status_of(process)
        assert int(before["VmHWM"].split()[0]) < 64 * 1024
        assert not select.select([process.stdout], [], [], 0.5)[0]
        assert status_of(process)["voluntary_ctxt_switches"] == before["voluntary_ctxt_switches"]


def status_of(process: subprocess.Popen[bytes]) -> dict[str, str]:
    rows = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return dict(row.split(":\t", 1) for row in rows if ":\t" in row)
