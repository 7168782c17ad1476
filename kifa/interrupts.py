"""What an interrupt cannot leave half done.

KeyboardInterrupt, or whatever else the handler of a signal raises, comes to the main thread between any two calls.
Half of a rotation would leave a log that goes on in its old segment beside the name of a new one, and loses what it
confirms; a lock that is taken in Python, as those of `threading.Event` and `Condition` are, would stay taken for ever.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from contextlib import suppress


class _Run:
    """One run of some work, and the lock that is free when it is over."""

    def __init__(self, body: Callable[[], None]) -> None:
        self._body = body
        self._claim = threading.Lock()  # taken by whoever decides whether the work is done
        self.error: BaseException | None = None
        self.over = threading.Lock()
        self.over.acquire()

    def go(self) -> None:
        if not self._claim.acquire(blocking=False):
            return
        try:
            self._body()
        except BaseException as error:  # told to whoever asked for it
            self.error = error
        finally:
            self.over.release()

    def wait(self) -> None:
        with self.over:
            pass

    def forbid(self) -> bool:
        """Have it never begin; return whether that was early enough."""
        is_early = self._claim.acquire(blocking=False)
        if is_early:
            self.over.release()
        return is_early


class Apart:
    """Does work on a thread of its own, where no interrupt comes, once for all threads that ask for it meanwhile."""

    def __init__(self, body: Callable[[], None]) -> None:
        """An interrupt may leave two runs of ``body`` beside each other, which it has to take care of."""
        self._body = body
        self._guard = threading.RLock()
        self._run: _Run | None = None

    def __call__(self) -> None:
        """Return when a run is over, one that was under way or a new one; raise what the new one raised.

        Whoever began a run is interrupted when it is over, or before it has begun; only by a second interrupt amid it.
        """
        own: _Run | None = None
        try:
            with self._guard:
                run = self._run
                if run is None or not run.over.locked():
                    run = own = _Run(self._body)
                    try:
                        _thread.start_new_thread(run.go, ())
                    except RuntimeError:  # no more threads, or the interpreter is about to end
                        run.go()
                    self._run = run
            run.wait()
        except BaseException:
            if own is not None and not own.forbid():
                own.wait()
            raise
        if own is not None and own.error is not None:
            raise own.error


class Bell:
    """Rung by any thread, heard by one that waits, or will wait; twice rung before it is heard is once."""

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        """Let `wait` return."""
        with suppress(RuntimeError):  # rung already
            self._silence.release()

    def wait(self) -> None:
        """Return when the bell was rung since the last time."""
        self._silence.acquire()
