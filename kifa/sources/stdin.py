"""Lines of standard input, answered on standard output.

While nothing but lines comes and all answers are taken, `kifa._senders` does both in C; not for a file, which is always
ready.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import select
from collections.abc import Callable

from kifa._answers import Answers
from kifa._lines import LineBuffer
from kifa._senders import Sender
from kifa.errors import KifaError
from kifa.event_loop import READABLE, WRITABLE
from kifa.ingest import Ingest
from kifa.sources import waiting_bytes

log = logging.getLogger(__name__)

STANDARD_INPUT = 0
STANDARD_OUTPUT = 1
PIPE_SIZE_BYTES = 1 << 20
CHUNK_SIZE_BYTES = 1 << 20
# A pipe that is writable takes this much without blocking, and its flags, shared with others, stay as they are.
PIPE_WRITE_SIZE_BYTES = 4096
MAX_UNREAD_ANSWERS_BYTES = 1 << 20
CLOSE_TIMEOUT_MS = 2000


class StandardInput(Sender):
    """Reads until the end of standard input. Unread answers beyond a bound hold up only this source."""

    def __init__(
        self,
        ingest: Ingest,
        *,
        ack: bool,
        max_line_size_bytes: int,
        on_end: Callable[[], None],
    ) -> None:
        self._lines = LineBuffer(max_line_size_bytes, CHUNK_SIZE_BYTES)
        answers = Answers(ingest.answers, self._send) if ack else None
        super().__init__(STANDARD_INPUT, self._lines, answers, STANDARD_OUTPUT)
        self._ingest = ingest
        self._on_end = on_end
        self._out = bytearray()
        self._output = select.poll()
        self._output.register(STANDARD_OUTPUT, select.POLLOUT)
        self._may_be_plain = True
        self._is_plain = False
        self._reading = False
        self._ended = False
        self._blocked = False
        self._writing = False
        with contextlib.suppress(OSError):  # it is no pipe
            fcntl.fcntl(STANDARD_INPUT, fcntl.F_SETPIPE_SZ, PIPE_SIZE_BYTES)
        self._resume()

    def _resume(self) -> None:
        wanted = not (self._ended or self._blocked or len(self._out) > MAX_UNREAD_ANSWERS_BYTES)
        self._become_plain(wanted and not self._out and self._may_be_plain)
        wanted = wanted and not self._is_plain
        if wanted and not self._reading:
            self._ingest.loop.add(STANDARD_INPUT, READABLE, lambda _events: self.read())
        elif self._reading and not wanted:
            self._ingest.loop.remove(STANDARD_INPUT)
        self._reading = wanted

    def _become_plain(self, is_plain: bool) -> None:
        if self._is_plain and not is_plain:
            self._ingest.plain.remove(self)
        elif is_plain and not self._is_plain:
            try:
                self._ingest.plain.add(self)
            except PermissionError:  # a file
                self._may_be_plain = is_plain = False
        self._is_plain = is_plain

    def read(self) -> None:
        try:
            size = self._lines.read_from(STANDARD_INPUT)
        except BlockingIOError:
            return
        except OSError as error:  # a directory, a terminal that has gone
            log.error("standard input cannot be read: %s", error.strerror)
            self._ingest.lost += 1
            size = 0
        if size == 0:
            self._end()
        self.store()

    def _end(self) -> None:
        self._ended = True
        self._lines.finish()
        self._ingest.store.request_commit()

    def store(self) -> None:
        if self.oversize:
            self._ingest.refuse_line(self.oversize, self.answers, "stdin")
            self.oversize = 0
        stored = self._ingest.store_lines(self._lines, self.answers, name="stdin")
        self._blocked = not stored
        if self._blocked:
            self._ingest.wait_for_space(self, self.store)
        self._resume()
        self._end_if_done()

    def _end_if_done(self) -> None:
        # However slow the reader of the answers is: a signal ends the wait.
        if self._ended and not (self._blocked or self.answers or self._out):
            self._on_end()

    def _send(self, data: bytes) -> None:
        self._out += data
        self._on_writable()

    def _write(self) -> None:
        sent = 0
        with memoryview(self._out) as view:
            try:
                while sent < len(view) and self._output.poll(0):
                    sent += os.write(STANDARD_OUTPUT, view[sent : sent + PIPE_WRITE_SIZE_BYTES])
            except BlockingIOError:
                pass
            except OSError as error:
                self._drop_answers(error)
                return
        del self._out[:sent]
        self._await_writable(bool(self._out))

    def _await_writable(self, wanted: bool) -> None:
        if wanted and not self._writing:
            self._ingest.loop.add(STANDARD_OUTPUT, WRITABLE, self._on_writable)
        elif self._writing and not wanted:
            self._ingest.loop.remove(STANDARD_OUTPUT)
        self._writing = wanted

    def _on_writable(self, _events: int = WRITABLE) -> None:
        self._write()
        self._resume()
        self._end_if_done()

    def _drop_answers(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            log.warning("nobody reads the answers on standard output any more; going on without")
        else:
            message = f"no answers: standard output cannot be written: {error.strerror}"
            log.error("%s; going on without", message)
            self._ingest.failure = KifaError(f"{message}; everything else went on")
        assert self.answers is not None
        self._ingest.answers.forget(self.answers)
        self.answers = None
        self._out = bytearray()
        self._await_writable(False)

    def stop(self) -> None:
        """Read what has come, and no more.

        A half line is stored too, but where its sender would see that it was not acknowledged.
        """
        if self._ended and not self._blocked:
            return
        if self._reading or self._is_plain:
            with contextlib.suppress(OSError):
                for _ in range(-(-waiting_bytes(STANDARD_INPUT) // CHUNK_SIZE_BYTES)):
                    self._lines.read_from(STANDARD_INPUT)
                    self._ingest.store_lines(self._lines, self.answers, name="stdin")
        self._ended = True
        self._resume()
        if self.answers is None:
            self._lines.finish()
        if not self._ingest.store_lines(self._lines, self.answers, name="stdin"):
            self._ingest.lost += self._lines.refuse()

    def close(self) -> None:
        """Give the answers that are left, as long as somebody reads them."""
        while self._out and self.answers is not None:
            if not self._output.poll(CLOSE_TIMEOUT_MS):
                log.warning("nobody reads the answers on standard output: some are not given")
                return
            self._write()
