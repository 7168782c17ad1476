"""One thread's events: descriptors through epoll, timers, signals. Nothing wakes up while nothing happens."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable

READABLE = select.EPOLLIN
WRITABLE = select.EPOLLOUT
BROKEN = select.EPOLLHUP | select.EPOLLERR
EDGE = select.EPOLLET

OnEvents = Callable[[int], None]
MAX_EVENTS = 256
# What a sender takes to wake up with its answer and send the next line.
LINGER_SECONDS = 100e-6


class Timer:
    """A call in the future, until `cancel`."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Do not call. Idempotent."""
        self.callback = None


class EventLoop:
    """Calls back when descriptors are ready or times come."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, OnEvents] = {}
        self._always_ready: dict[int, OnEvents] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._serial = itertools.count()
        self._wakeup: tuple[socket.socket, socket.socket] | None = None
        self._awake_until = 0.0
        self.events_left = 0
        """How many of this round's events wait for the callback that runs to return."""
        self._signals: list[int] = []

    def add(self, descriptor: int, events: int, callback: OnEvents) -> None:
        """Call ``callback(events)`` when ``descriptor`` is ready; a regular file always is."""
        try:
            self._epoll.register(descriptor, events)
        except PermissionError:
            self._always_ready[descriptor] = callback
        else:
            self._callbacks[descriptor] = callback

    def modify(self, descriptor: int, events: int) -> None:
        """Wait for these events instead."""
        self._epoll.modify(descriptor, events)

    def remove(self, descriptor: int) -> None:
        """Wait no more. Idempotent."""
        self._always_ready.pop(descriptor, None)
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call ``callback()`` once, in so many seconds."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._serial), timer))
        return timer

    def on_signals(self, numbers: Iterable[int], callback: Callable[[int], None]) -> None:
        """Call ``callback(number)`` from the loop for each signal that arrives.

        Signals of one kind that come before the loop has its turn are one. After a SIGINT the next one is left to
        the kernel, which ends the process at once, whatever it is doing.
        """
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        self._wakeup = (reader, writer)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

        def on_signal(number: int, _frame: object) -> None:
            # The socket only wakes the loop: it may be full of others that were not looked at yet.
            if number not in self._signals:
                self._signals.append(number)
            if number == signal.SIGINT:
                signal.signal(signal.SIGINT, signal.SIG_DFL)

        for number in numbers:
            signal.signal(number, on_signal)

        def on_readable(_events: int) -> None:
            with contextlib.suppress(BlockingIOError):
                while os.read(reader.fileno(), 4096):
                    pass
            while self._signals:
                callback(self._signals.pop(0))

        self.add(reader.fileno(), READABLE, on_readable)

    def run_once(self) -> None:
        """Wait for something to happen and do it."""
        ready = self._wait()
        self.events_left = len(ready)
        for descriptor, events in ready:
            self.events_left -= 1
            # An earlier callback of this round may have removed it.
            callback = self._callbacks.get(descriptor)
            if callback is not None:
                callback(events)
        for callback in list(self._always_ready.values()):
            callback(READABLE)
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                timer.callback()

    def linger(self) -> None:
        """Stay awake for a moment: somebody was answered, and waking up takes half as long as storing a line."""
        self._awake_until = time.monotonic() + LINGER_SECONDS

    def _wait(self) -> list[tuple[int, int]]:
        while self._awake_until:
            events = self._epoll.poll(0, MAX_EVENTS)
            if events or self._always_ready:
                return events
            if time.monotonic() >= self._awake_until:
                self._awake_until = 0.0
            os.sched_yield()  # whoever is waited for may need this core
        return self._epoll.poll(self._timeout(), MAX_EVENTS)

    def _timeout(self) -> float | None:
        if self._always_ready:
            return 0
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - time.monotonic())

    def close(self) -> None:
        """Let go of everything."""
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            for end in self._wakeup:
                end.close()
        self._epoll.close()
