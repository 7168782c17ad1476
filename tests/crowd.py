"""Many senders at once, each with one line in flight, and what each of them was told."""

from __future__ import annotations

import random
import selectors
import socket
import time
from collections.abc import Callable

from tests.daemons import DEADLINE_SECONDS


class Member:
    """One sender: sends a line, in one piece or in two, and the next one when it was answered."""

    def __init__(self, number: int, peer: socket.socket, choices: random.Random) -> None:
        self.number = number
        self.peer = peer
        self.sent = 0
        self._choices = choices
        self._answer = b""
        self._rest = b""
        self.line = b""

    def send(self) -> None:
        """Send the next line, or what is left of it."""
        if not self._rest:
            size = self._choices.choice((0, 1, 200, 200, 200, 5000))
            self.line = b"%d %d %s" % (self.number, self.sent, b"x" * size)
            self._rest = self.line + b"\n"
            self.sent += 1
        size = len(self._rest) if self._choices.random() < 0.8 else 1
        piece, self._rest = self._rest[:size], self._rest[size:]
        self.peer.sendall(piece)
        if self._rest:
            self.send()

    def receive(self) -> bytes | None:
        """Return the answer to the line, nothing where it is not whole, or None at the end of the connection."""
        try:
            got = self.peer.recv(4096)
        except ConnectionError:
            got = b""
        if not got:
            return None
        self._answer += got
        if not self._answer.endswith(b"\n"):
            return b""
        answer, self._answer = self._answer, b""
        assert answer.count(b"\n") == 1, answer
        return answer


class Crowd:
    """All of them; `confirmed` has each line that was acknowledged, by its LSN."""

    def __init__(self, connect: Callable[[int], socket.socket], count: int, seed: int = 0) -> None:
        choices = random.Random(seed)
        self.confirmed: dict[int, bytes] = {}
        self.refusals: list[bytes] = []
        self._selector = selectors.DefaultSelector()
        self._members = []
        for number in range(count):
            member = Member(number, connect(number), choices)
            member.peer.settimeout(DEADLINE_SECONDS)
            self._members.append(member)
            self._selector.register(member.peer, selectors.EVENT_READ, member)

    def begin(self) -> None:
        """Send the first line of each."""
        for member in self._members:
            member.send()

    def run(self, until: Callable[[], object] = lambda: False) -> None:
        """Go on until ``until()`` is true, asked after each answer, or all connections have ended."""
        end = time.monotonic() + DEADLINE_SECONDS
        while self._selector.get_map():
            assert time.monotonic() < end, (len(self.confirmed), len(self.refusals))
            for key, _ in self._selector.select(1.0):
                self._go_on(key.data)
                if until():
                    return

    def _go_on(self, member: Member) -> None:
        answer = member.receive()
        if answer is None:
            self._selector.unregister(member.peer)
        elif answer:
            if answer.startswith(b"ACK "):
                lsn = int(answer[4:])
                assert lsn not in self.confirmed
                self.confirmed[lsn] = member.line
            else:
                self.refusals.append(answer)
            try:
                member.send()
            except ConnectionError:
                self._selector.unregister(member.peer)

    def close(self) -> None:
        """Close all connections."""
        for member in self._members:
            member.peer.close()
        self._selector.close()
