"""What senders are told: in order, each line once, none before it is durable, whatever the socket takes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kifa._answers import AnswerQueue, Answers

SENDERS = 3
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


@contextlib.contextmanager
def sockets(count: int) -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Pairs that take little before they are full."""
    pairs = [socket.socketpair() for _ in range(count)]
    for ours, _ in pairs:
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    try:
        yield pairs
    finally:
        for pair in pairs:
            for end in pair:
                end.close()


class SlowSender:
    """What Python does where a socket does not take all."""

    def __init__(self, queue: AnswerQueue, ours: socket.socket, is_direct: bool) -> None:
        self.ours = ours
        self.is_direct = is_direct
        self.answers = Answers(queue, self.send)
        self.out = b""
        if is_direct:
            self.answers.send_to(ours.fileno())

    def send(self, data: bytes) -> None:
        self.out += data
        with contextlib.suppress(BlockingIOError):
            while self.out:
                self.out = self.out[self.ours.send(self.out) :]
        if self.is_direct:
            self.answers.send_to(-1 if self.out else self.ours.fileno())


@settings(deadline=None, max_examples=200)
@given(steps, st.lists(st.booleans(), min_size=SENDERS, max_size=SENDERS))
def test_each_is_told_its_lines_in_order_when_they_are_durable(
    work: list[tuple[str, int, int]], direct: list[bool]
) -> None:
    queue = AnswerQueue()
    with sockets(SENDERS) as pairs:
        senders = [
            SlowSender(queue, ours, is_direct)
            for (ours, _), is_direct in zip(pairs, direct, strict=True)
        ]
        told = [b""] * SENDERS
        wanted: list[list[tuple[int, bytes]]] = [[] for _ in senders]
        last = durable = 0

        def answer() -> None:
            for answers in queue.answer(durable):
                answers.send(answers.take(durable))

        def read(number: int, size: int) -> int:
            theirs = pairs[number][1]
            theirs.setblocking(False)
            try:
                got = theirs.recv(size)
            except BlockingIOError:
                return 0
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
    with sockets(2) as pairs:
        kept, gone = (SlowSender(queue, ours, True) for ours, _ in pairs)
        gone.answers.stored(1, 2)
        gone.answers.refused("no")
        kept.answers.stored(3, 1)
        queue.forget(gone.answers)
        del gone
        assert queue.answer(3) == []
        assert pairs[0][1].recv(100) == b"ACK 3\n"
        pairs[1][1].setblocking(False)
        with pytest.raises(BlockingIOError):
            pairs[1][1].recv(100)
        assert queue.expects_senders
        queue.forget(kept.answers)
        assert not queue.expects_senders


def test_who_was_told_everything_is_expected_until_the_next_line() -> None:
    queue = AnswerQueue()
    with sockets(1) as ((ours, theirs),):
        sender = SlowSender(queue, ours, True)
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
        assert theirs.recv(100) == b"ACK 1\nACK 2\nACK 3\n"


def test_a_sender_that_has_closed_is_left_to_python() -> None:
    queue = AnswerQueue()
    with sockets(1) as ((ours, theirs),):
        answers = Answers(queue, lambda data: None)
        answers.send_to(ours.fileno())
        theirs.close()
        answers.stored(1, 1)
        assert queue.answer(1) == [answers]
        assert answers.take(1) == b"ACK 1\n"
