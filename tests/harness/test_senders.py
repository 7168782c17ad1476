"""What a sender makes of the answers of a target."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from harness.crash_test.errors import CrashTestError
from harness.crash_test.ledger import Ledger
from harness.crash_test.senders import StreamSender


class Target:
    """The other end of a sender."""

    def __init__(self) -> None:
        self.lines_fd, out_fd = os.pipe()
        in_fd, self.answers_fd = os.pipe()
        self.sender = StreamSender("s", iter([b"a", b"b", b"c"]), out_fd, in_fd)
        self._fds = (self.lines_fd, out_fd, in_fd, self.answers_fd)

    def answer(self, answers: bytes) -> list[tuple[int, bytes]]:
        os.write(self.answers_fd, answers)
        return self.sender.receive()

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def target() -> Iterator[Target]:
    target = Target()
    yield target
    target.close()


def test_what_is_accepted_is_confirmed_later(target: Target) -> None:
    target.sender.send(3)
    assert target.answer(b"ACC 1\nACC 2\n") == []
    assert target.sender.accepted == [(1, b"a"), (2, b"b")]
    assert target.sender.unanswered == 3
    assert target.answer(b"ACK 1\nACC 3\nACK 2\n") == [(1, b"a"), (2, b"b")]
    assert target.sender.accepted[2:] == [(3, b"c")]
    assert target.answer(b"ACK 3\n") == [(3, b"c")]


def test_what_was_not_accepted_before_is_confirmed_as_well(target: Target) -> None:
    target.sender.send(2)
    assert target.answer(b"ACK 1\nACC 2\n") == [(1, b"a")]
    assert target.sender.accepted == [(2, b"b")]


@pytest.mark.parametrize(
    "answers", [b"ACC 1\nACC 2\n", b"ACK 1\nACK 2\n", b"ACC 1\nACK 1\nACC 2\n"]
)
def test_an_answer_to_no_line_is_noticed(target: Target, answers: bytes) -> None:
    target.sender.send(1)
    with pytest.raises(CrashTestError, match="answers no line"):
        target.answer(answers)


def test_an_lsn_that_two_lines_were_accepted_with_is_noticed() -> None:
    ledger = Ledger()
    ledger.accept([(1, b"a"), (1, b"a")])
    assert not ledger.contradictions
    ledger.accept([(1, b"b")])
    assert ledger.contradictions
