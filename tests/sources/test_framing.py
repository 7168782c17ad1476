"""Byte streams cut anywhere: the same entries come out, whatever pieces they arrive in."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

import kifa
from kifa._answers import Answers
from kifa._lines import LineBuffer
from kifa.ingest import Ingest
from kifa.sources.octets import MAX_LENGTH_DIGITS, OctetStream

LIMIT_BYTES = 12

pieces = st.lists(st.binary(max_size=9), max_size=30)
streams = st.one_of(
    pieces,
    # Mostly line ends, digits and spaces.
    st.lists(st.text("\n\r a01", max_size=9).map(str.encode), max_size=30),
)


class Collector:
    """What `Ingest` is to a stream: refuses nothing that has the right size."""

    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.refusals: list[str] = []

    def store_entry(self, data: bytes, answers: Answers | None, name: str) -> bool:
        self.entries.append(data)
        return True

    def refuse(self, reason: str, answers: Answers | None, name: str) -> None:
        self.refusals.append(reason)


def lines_by_definition(data: bytes) -> tuple[list[bytes], int]:
    """The lines, and how many are too long."""
    lines = data.split(b"\n")
    last = lines.pop()
    lines = [line.removesuffix(b"\r") for line in lines]
    if last:
        lines.append(last)
    fitting = [line for line in lines if len(line) <= LIMIT_BYTES]
    return fitting, len(lines) - len(fitting)


@settings(max_examples=40, deadline=None)
@given(streams)
def test_lines_do_not_depend_on_the_pieces(tmp_path_factory, parts: list[bytes]) -> None:  # type: ignore[no-untyped-def]
    store = Path(tmp_path_factory.mktemp("store"))
    buffer = LineBuffer(LIMIT_BYTES, 16)
    refused = 0
    with kifa.open(store, segment_size_mib=1) as log:
        for part in [*parts, None]:
            if part is None:
                buffer.finish()
            else:
                buffer.feed(part)
            reason = -1
            while reason != 0:
                _, _, reason, _ = log.frame_lines(buffer)
                refused += reason == 1
        log.sync()
    found = [entry.data for entry in kifa.reader(store).entries()]
    assert (found, refused) == lines_by_definition(b"".join(parts))
    assert buffer.consumed_bytes == len(b"".join(parts))
    assert buffer.pending_bytes == 0


def feed(parts: list[bytes]) -> tuple[list[bytes], list[str]]:
    stream = OctetStream(LIMIT_BYTES)
    collector = Collector()
    for part in parts:
        stream.feed(part)
        assert stream.store(cast(Ingest, collector), None, "")
        assert stream.pending_bytes <= LIMIT_BYTES + MAX_LENGTH_DIGITS + 1 + len(part)
    stream.finish()
    assert stream.store(cast(Ingest, collector), None, "")
    return collector.entries, collector.refusals


@settings(deadline=None)
@given(streams)
def test_octet_counting_does_not_depend_on_the_pieces(parts: list[bytes]) -> None:
    entries, refusals = feed(parts)
    at_once = feed([b"".join(parts)])
    bytewise = feed([bytes([byte]) for byte in b"".join(parts)])
    assert entries == at_once[0] == bytewise[0]
    assert len(refusals) == len(at_once[1]) == len(bytewise[1])


@settings(deadline=None)
@given(st.lists(st.binary(max_size=LIMIT_BYTES + 5)), st.data())
def test_octet_counted_messages_are_entries(messages: list[bytes], data: st.DataObject) -> None:
    encoded = b"".join(b"%d %s" % (len(message), message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=20)))
    parts = [encoded[a:b] for a, b in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]
    entries, refusals = feed(parts)
    assert entries == [message for message in messages if len(message) <= LIMIT_BYTES]
    assert len(refusals) == sum(len(message) > LIMIT_BYTES for message in messages)
