"""What senders are told: in order, each line once, none before it is durable, whatever the socket takes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kifa._answers import AnswerQueue, Answers

KINDS = ("socket", "pipe", "python")
SENDERS = len(KINDS)
steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("stored"),
            st.integers(0, SENDERS - 1),
            st.one_of(st.integers(1, 5), st.integers(1, 3000)),
        ),
        st.tuples(st.just("refused"), st.integers(0, SENDERS - 1), st.just(0)),
        st.tuples(st.just("durable"), st.just(0), st.integers(0, 3000)),
        st.tuples(st.just("read"), st.integers(0, SENDERS - 1), st.integers(1, 5000)),
    ),
    max_size=60,
)


class Ends:
    """What one sender is told through: small, so that it is soon full."""

    def __init__(self, kind: str) -> None:
        self.is_socket = kind != "pipe"
        if self.is_socket:
            pair = socket.socketpair()
            pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            self.theirs, self.ours = pair[1].detach(), pair[0].detach()
            os.set_blocking(self.ours, False)
        else:
            self.theirs, self.ours = os.pipe()
            fcntl.fcntl(self.ours, fcntl.F_SETPIPE_SZ, 8192)
        os.set_blocking(self.theirs, False)

    def read(self, size: int = 65536) -> bytes:
        """Return what has come, if anything."""
        try:
            return os.read(self.theirs, size)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Close both."""
        os.close(self.ours)
        os.close(self.theirs)


@contextlib.contextmanager
def ends(*kinds: str) -> Iterator[list[Ends]]:
    """What each of the senders is told through."""
    made = [Ends(kind) for kind in kinds]
    try:
        yield made
    finally:
        for one in made:
            one.close()


class SlowSender:
    """What Python does where a socket or a pipe does not take all."""

    def __init__(self, queue: AnswerQueue, through: Ends, is_direct: bool = True) -> None:
        self.through = through
        self.is_direct = is_direct
        self.answers = Answers(queue, self.send)
        self.out = b""
        self.send(b"")

    def send(self, data: bytes) -> None:
        self.out += data
        while self.out and select.select([], [self.through.ours], [], 0)[1]:
            self.out = self.out[os.write(self.through.ours, self.out[:4096]) :]
        if self.is_direct:
            self.answers.send_to(-1 if self.out else self.through.ours, self.through.is_socket)


@settings(deadline=None, max_examples=200)
@given(steps)
def test_each_is_told_its_lines_in_order_when_they_are_durable(
    work: list[tuple[str, int, int]],
) -> None:
    queue = AnswerQueue()
    with ends(*KINDS) as all_ends:
        senders = [
            SlowSender(queue, through, kind != "python")
            for through, kind in zip(all_ends, KINDS, strict=True)
        ]
        told = [b""] * SENDERS
        wanted: list[list[tuple[int, bytes]]] = [[] for _ in senders]
        last = durable = 0

        def answer() -> None:
            for answers in queue.answer(durable):
                answers.send(answers.take(durable))

        def read(number: int, size: int) -> int:
            got = all_ends[number].read(size)
            told[number] += got
            return len(got)

        def expected(number: int) -> bytes:
            found = []
            for lsn, text in wanted[number]:
                if lsn > durable:
                    break
                found.append(text)
            return b"".join(found)

        for what, number, value in work:
            if what == "stored":
                senders[number].answers.stored(last + 1, value)
                wanted[number] += [
                    (lsn, b"ACK %d\n" % lsn) for lsn in range(last + 1, last + 1 + value)
                ]
                last += value
            elif what == "refused":
                senders[number].answers.refused(f"reason {last}")
                wanted[number].append((0, b"ERR reason %d\n" % last))
            elif what == "durable":
                durable = min(last, durable + value)
                answer()
            else:
                read(number, value)
                senders[number].send(b"")
            assert expected(number).startswith(told[number])
        durable = last
        answer()
        for number, sender in enumerate(senders):
            while read(number, 65536) or sender.out:
                sender.send(b"")
            assert told[number] == expected(number)
            assert not sender.answers
        assert queue.answer(durable) == []


def test_who_has_gone_is_told_nothing_and_is_not_expected() -> None:
    queue = AnswerQueue()
    with ends("socket", "socket") as (first, second):
        kept, gone = SlowSender(queue, first), SlowSender(queue, second)
        gone.answers.stored(1, 2)
        gone.answers.refused("no")
        kept.answers.stored(3, 1)
        queue.forget(gone.answers)
        del gone
        assert queue.answer(3) == []
        assert (first.read(), second.read()) == (b"ACK 3\n", b"")
        assert queue.expects_senders
        queue.forget(kept.answers)
        assert not queue.expects_senders


@pytest.mark.parametrize("kind", ["socket", "pipe"])
def test_who_was_told_everything_is_expected_until_the_next_line(kind: str) -> None:
    queue = AnswerQueue()
    with ends(kind) as (through,):
        sender = SlowSender(queue, through)
        sender.answers.stored(1, 2)
        queue.answer(1)
        assert not queue.expects_senders  # the second line is still to be told
        queue.answer(2)
        assert queue.expects_senders
        sender.answers.stored(3, 1)
        assert not queue.expects_senders
        queue.answer(3)
        assert queue.expects_senders
        sender.answers.send_to(-1)
        assert not queue.expects_senders
        assert through.read() == b"ACK 1\nACK 2\nACK 3\n"


@pytest.mark.parametrize("kind", ["socket", "pipe"])
def test_a_sender_that_has_closed_is_left_to_python(kind: str) -> None:
    queue = AnswerQueue()
    with ends(kind) as (through,):
        sender = SlowSender(queue, through)
        os.close(through.theirs)
        through.theirs = os.open(os.devnull, os.O_RDONLY)
        sender.answers.stored(1, 1)
        assert queue.answer(1) == [sender.answers]
        assert sender.answers.take(1) == b"ACK 1\n"
        assert queue.answer(1) == []
