"""``kifa daemon --stdin`` as a process: bytes, acknowledgements, signals, exit codes."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.daemons import DEADLINE_SECONDS, data_of, read_until, start, unread_bytes, wait_for


def pipe(store: Path, data: bytes, *options: object) -> tuple[int, bytes, bytes]:
    with start(store, "--stdin", *options) as process:
        try:
            out, errors = process.communicate(data, DEADLINE_SECONDS)
        finally:
            process.kill()
    return process.returncode, out, errors


def acks(count: int) -> bytes:
    return b"".join(b"ACK %d\n" % lsn for lsn in range(1, count + 1))


def test_lines_are_stored_verbatim_and_acknowledged(tmp_path: Path) -> None:
    code, out, _ = pipe(tmp_path, b"a\n\n\xff\x00\r\n\r\r\nlast", "--ack")
    assert (code, out) == (0, acks(5))
    assert data_of(tmp_path) == [b"a", b"", b"\xff\x00", b"\r", b"last"]


@pytest.mark.parametrize("mode", ["normal", "cautious", "emergency"])
def test_every_mode_acknowledges_every_line_in_order(mode: str, tmp_path: Path) -> None:
    lines = [b"line %d" % n for n in range(20_000)]
    code, out, _ = pipe(tmp_path, b"\n".join(lines), "--ack", "--flush-mode", mode)
    assert (code, out) == (0, acks(len(lines)))
    assert data_of(tmp_path) == lines


def test_a_long_line_is_refused_with_its_size_and_the_stream_goes_on(tmp_path: Path) -> None:
    data = b"before\n" + b"x" * (3 << 20) + b"\nafter\n" + b"y" * (1 << 20) + b"\n"
    code, out, errors = pipe(tmp_path, data, "--ack")
    assert code == 8
    assert out == b"ACK 1\nERR line of 3145728 bytes is too long\nACK 2\nACK 3\n"
    assert b"3145728" in errors
    assert data_of(tmp_path) == [b"before", b"after", b"y" * (1 << 20)]


@pytest.mark.parametrize("mode", ["normal", "cautious"])
def test_a_lone_line_is_acknowledged_while_the_pipe_stays_open(mode: str, tmp_path: Path) -> None:
    with start(tmp_path, "--stdin", "--ack", "--flush-mode", mode) as process:
        for lsn in (1, 2):
            assert process.stdin is not None
            process.stdin.write(b"line\n")
            process.stdin.flush()
            assert read_until(process.stdout, b"\n") == b"ACK %d\n" % lsn
        process.kill()
    assert data_of(tmp_path) == [b"line"] * 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stores_what_was_read(number: int, code: int, tmp_path: Path) -> None:
    with start(tmp_path, "--stdin") as process:
        assert process.stdin is not None
        read_until(process.stderr, b"ready")
        reader = process.stdin
        process.stdin.write(b"one\ntwo\nhalf")
        process.stdin.flush()
        # The pipe is empty when the daemon has read it; it stays open and idle.
        wait_for(lambda: unread_bytes(reader) == 0)
        process.send_signal(number)
        assert process.wait(DEADLINE_SECONDS) == code
    assert data_of(tmp_path) == [b"one", b"two", b"half"]


def test_an_unread_answer_holds_up_only_memory_that_is_bounded(tmp_path: Path) -> None:
    code, out, _ = pipe(tmp_path, b"x\n" * 300_000, "--ack")
    assert code == 0
    assert out == acks(300_000)


def test_regular_file_and_devices_as_input(tmp_path: Path) -> None:
    source = tmp_path / "input"
    source.write_bytes(b"a\nb\n")
    with source.open("rb") as file:
        process = start(tmp_path / "store", "--stdin", stdin=file)
        assert process.wait(DEADLINE_SECONDS) == 0
    assert data_of(tmp_path / "store") == [b"a", b"b"]
    process = start(tmp_path / "empty", "--stdin", stdin=subprocess.DEVNULL)
    assert process.wait(DEADLINE_SECONDS) == 0


def test_emergency_mode_by_signal(tmp_path: Path) -> None:
    with start(tmp_path, "--stdin") as process:
        read_until(process.stderr, b"ready")
        process.send_signal(signal.SIGUSR1)
        read_until(process.stderr, b"emergency")
        process.send_signal(signal.SIGUSR2)
        read_until(process.stderr, b"cautious")
        process.communicate(b"x\n")
        assert process.returncode == 0


def test_errors_are_one_line_and_have_their_code(tmp_path: Path) -> None:
    code, _, errors = pipe(tmp_path, b"", "--flush-mode", "never")
    assert code == 2
    assert errors.count(b"\n") == 1
    assert b"command line: wal.flush_mode is 'never'" in errors
    with start(tmp_path, "--stdin") as first:
        read_until(first.stderr, b"ready")
        assert pipe(tmp_path, b"")[0] == 5
        first.kill()
