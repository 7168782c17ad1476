"""The four output formats, against Python's own JSON, CSV and calendar."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import threading
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kifa._batch import Entry
from kifa._format import CSV_HEADER, Formatter, format_timestamp
from tests.batches import U64, batch_of, numbered

UTF8_PIECES = st.one_of(st.text(max_size=20).map(str.encode), st.sampled_from([b'"', b"\\", b"\n"]))
RAW_PIECES = st.one_of(
    UTF8_PIECES,
    st.binary(max_size=20),
    st.sampled_from([b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"base64:"]),
)
DATA = st.one_of(
    st.lists(UTF8_PIECES, max_size=12).map(b"".join), st.lists(RAW_PIECES, max_size=6).map(b"".join)
)
TIMES = st.one_of(st.integers(0, 253_402_300_799_999), st.sampled_from([0, 951_782_400_000]))


def formatted(kind: str, entries: list[Entry], *, reverse: bool = False) -> bytes:
    formatter = Formatter(kind)
    formatter.add(batch_of(entries), reverse)
    return formatter.take()


def is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def expected_time(timestamp_ms: int) -> str:
    return datetime.fromtimestamp(timestamp_ms // 1000, UTC).strftime("%4Y-%m-%d %H:%M:%S UTC")


EXAMPLE = [Entry(1, 1_769_884_200_000, b'{"txn":"TXN-001","amount":5000}')]


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("text", '[1] 2026-01-31 18:30:00 UTC {"txn":"TXN-001","amount":5000}'),
        (
            "json",
            (
                '{"lsn":1,"timestamp":"2026-01-31 18:30:00 UTC","timestamp_ms":1769884200000,'
                '"data":"{\\"txn\\":\\"TXN-001\\",\\"amount\\":5000}"}'
            ),
        ),
        (
            "csv",
            '1,"2026-01-31 18:30:00 UTC",1769884200000,"{""txn"":""TXN-001"",""amount"":5000}"',
        ),
        (
            "hex",
            "0000000000000001 0000019c1551ac40 " + EXAMPLE[0].data.hex(),
        ),
    ],
)
def test_the_documented_lines(kind: str, line: str) -> None:
    assert formatted(kind, EXAMPLE).decode() == line + "\n"


def test_the_csv_header() -> None:
    assert CSV_HEADER == b"lsn,timestamp,timestamp_ms,data\n"


@settings(max_examples=400, deadline=None)
@given(data=DATA, time=TIMES, lsn=st.integers(1, U64 - 1))
def test_one_entry_in_each_format(data: bytes, time: int, lsn: int) -> None:
    entries = [Entry(lsn, time, data)]
    stamp = expected_time(time)
    assert formatted("text", entries) == f"[{lsn}] {stamp} ".encode() + data + b"\n"
    assert formatted("hex", entries) == f"{lsn:016x} {time:016x} {data.hex()}\n".encode()

    line = formatted("json", entries)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    value = json.loads(line)
    fields = {"lsn": lsn, "timestamp": stamp, "timestamp_ms": time}
    encoded = base64.b64encode(data).decode()
    if is_utf8(data):
        assert value == fields | {"data": data.decode()}
        assert line.decode() == json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n"
    else:
        assert value == fields | {"data_b64": encoded}

    text = formatted("csv", entries).decode()
    assert text.startswith(f'{lsn},"{stamp}",{time},"')
    (row,) = csv.reader(io.StringIO(text, newline=""))
    if is_utf8(data) and not data.startswith(b"base64:"):
        assert row == [str(lsn), stamp, str(time), data.decode()]
    else:
        assert row == [str(lsn), stamp, str(time), "base64:" + encoded]


def test_readable_text_stays_readable() -> None:
    line = formatted("json", numbered(["café 日本 \U0001f600 \x7f".encode()]))
    assert "café 日本 \U0001f600 \x7f".encode() in line


@settings(max_examples=100, deadline=None)
@given(
    items=st.lists(DATA, min_size=1, max_size=8),
    kind=st.sampled_from(["text", "json", "csv", "hex"]),
)
def test_many_entries_are_the_lines_of_each(items: list[bytes], kind: str) -> None:
    entries = [Entry(9 + i, 999 * i, data) for i, data in enumerate(items)]
    lines = [formatted(kind, [entry]) for entry in entries]
    assert formatted(kind, entries) == b"".join(lines)
    assert formatted(kind, entries, reverse=True) == b"".join(reversed(lines))


@given(time=TIMES)
def test_timestamps(time: int) -> None:
    assert format_timestamp(time) == expected_time(time)


def test_timestamps_beyond_the_calendar_of_python() -> None:
    assert format_timestamp(253_402_300_800_000) == "10000-01-01 00:00:00 UTC"
    assert format_timestamp(U64 - 1) == "584556019-04-03 14:25:51 UTC"


@pytest.mark.parametrize("kind", ["text", "json", "csv", "hex"])
def test_the_largest_entries_grow_the_buffer(kind: str) -> None:
    for data in (b"\0" * (1 << 20), b"\xff" * (1 << 20), b'"' * (1 << 20)):
        assert len(formatted(kind, numbered([data]))) >= 1 << 20


def test_writing_to_a_pipe_gives_all_of_it() -> None:
    formatter = Formatter("json")
    batch = batch_of(numbered(b"%d" % i * 20 for i in range(3000)))
    formatter.add(batch)
    expected = formatter.take()
    formatter.add(batch)
    read_end, write_end = os.pipe()
    received: list[bytes] = []

    def drain() -> None:
        with open(read_end, "rb") as pipe:  # noqa: PTH123  (a descriptor)
            received.append(pipe.read())

    reader = threading.Thread(target=drain)
    reader.start()
    formatter.write_to(write_end)
    os.close(write_end)
    reader.join()
    assert received == [expected]
    assert formatter.size == 0


def test_a_broken_pipe_is_told() -> None:
    formatter = Formatter("text")
    formatter.add(batch_of(EXAMPLE))
    read_end, write_end = os.pipe()
    os.close(read_end)
    with pytest.raises(BrokenPipeError):
        formatter.write_to(write_end)
    os.close(write_end)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="xml"):
        Formatter("xml")
