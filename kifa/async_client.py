"""The client of the daemon for asyncio: `kifa.client` without waiting threads.

client = await kifa.connect_async("127.0.0.1:5514")
async with client:
    lsn = await client.send(b"receipt 17")

Tasks may share a client: what one sends does not wait for the answers of another, so that they share syncs too.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from kifa.client import (
    DEFAULT_TIMEOUT_SECONDS,
    Answers,
    Exchange,
    check_framing,
    frame_all,
    parse_target,
)
from kifa.errors import ClosedError, ForkedError, KifaError


class _Call:
    """One `send_many`: its exchange, and what waits for its progress."""

    def __init__(self, exchange: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        self.exchange = exchange
        self.done: asyncio.Future[None] = loop.create_future()
        self.progress = asyncio.Event()


class _Protocol(asyncio.Protocol):
    """Gives the answers that arrive to the calls that wait for them, the oldest first."""

    def __init__(self, address: str, timeout_seconds: float) -> None:
        self.reason = ""
        """Why nothing more can be sent."""
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.closed = asyncio.Event()
        self.calls: deque[_Call] = deque()
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._answers = Answers()
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._last_sign = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def begin(self, call: _Call) -> None:
        """Expect the answers of ``call`` behind those of the calls before."""
        if not self.calls:
            self._last_sign = self._loop.time()
        self.calls.append(call)
        if self._timer is None:
            self._timer = self._loop.call_later(self._timeout_seconds, self._check_silence)

    def _check_silence(self) -> None:
        # One timer for all calls, set again when it fires: answers come too often to do it for each.
        self._timer = None
        if not self.calls:
            return
        left = self._last_sign + self._timeout_seconds - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_silence)
        else:
            self.give_up(
                f"no answer from {self._address} for {self._timeout_seconds:g} s;"
                " does the daemon run with --ack?"
            )

    def data_received(self, data: bytes) -> None:
        self._last_sign = self._loop.time()
        try:
            for answer in self._answers.feed(data):
                if not self.calls:
                    raise KifaError(f"{answer[:80]!r} answers nothing that was sent")
                call = self.calls[0]
                call.exchange.take_answer(answer)
                if call.exchange.is_done:
                    self.finish_oldest()
            if self.calls:
                self.calls[0].progress.set()
        except KifaError as error:
            self.give_up(str(error))

    def finish_oldest(self) -> None:
        """Let go of the calls that have all their answers."""
        while self.calls and self.calls[0].exchange.is_done:
            call = self.calls.popleft()
            call.progress.set()
            if not call.done.done():
                call.done.set_result(None)

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def give_up(self, reason: str) -> None:
        """Break the connection off."""
        self.reason = self.reason or reason
        self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.reason = self.reason or str(error or f"{self._address} closed the connection")
        if self._timer is not None:
            self._timer.cancel()
        for call in self.calls:
            if not call.done.done():
                call.done.set_exception(call.exchange.lost(self.reason))
            call.progress.set()
        self.calls.clear()
        self.may_write.set()
        self.closed.set()


class AsyncClient:
    """One connection to a daemon that runs with ``--ack``, made by `connect_async`."""

    def __init__(self, protocol: _Protocol, framing: str) -> None:
        self._protocol = protocol
        self._framing = framing
        self._order = asyncio.Lock()
        self._process_id = os.getpid()

    async def send(self, data: bytes) -> int:
        """Send one entry and return its LSN: it is durable. Raises as `kifa.Client.send`."""
        return (await self.send_many((data,)))[0]

    async def send_many(self, items: Iterable[bytes]) -> list[int]:
        """Send many entries without waiting for each, and return their LSNs. Raises as `kifa.Client.send_many`.

        A task that is cancelled here may have sent some of them; the client goes on.
        """
        if self._process_id != os.getpid():
            raise ForkedError("the connection belongs to the parent process; connect again here")
        protocol = self._protocol
        call = _Call(Exchange(frame_all(items, self._framing)), asyncio.get_running_loop())
        if call.exchange.is_done:
            return []
        async with self._order:
            if protocol.reason:
                raise ClosedError(f"the connection is closed: {protocol.reason}; connect again")
            protocol.begin(call)
            try:
                await self._send_all(call)
            except BaseException:
                call.done.cancel()
                call.exchange.give_up_the_rest()
                protocol.finish_oldest()
                raise
        await call.done
        return call.exchange.result()

    async def _send_all(self, call: _Call) -> None:
        protocol = self._protocol
        while not call.exchange.is_sent and not call.done.done():
            await protocol.may_write.wait()
            chunk = call.exchange.next_chunk()
            if chunk:
                protocol.transport.write(chunk)
            else:
                call.progress.clear()
                await call.progress.wait()

    async def close(self) -> None:
        """Close the connection; calls that wait fail. Idempotent."""
        protocol = self._protocol
        if self._process_id == os.getpid():
            protocol.give_up("the client was closed")
            await protocol.closed.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


async def connect_async(
    address: str,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    framing: str = "newline",
) -> AsyncClient:
    """Connect to a daemon. Arguments and errors are those of `kifa.connect`."""
    check_framing(framing)
    target = parse_target(address)
    loop = asyncio.get_running_loop()

    def make_protocol() -> _Protocol:
        return _Protocol(address, timeout_seconds)

    async with asyncio.timeout(timeout_seconds):
        if isinstance(target, str):
            _, protocol = await loop.create_unix_connection(make_protocol, target)
        else:
            _, protocol = await loop.create_connection(make_protocol, *target)
    return AsyncClient(protocol, framing)
