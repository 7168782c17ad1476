"""KeyboardInterrupt at each place where the interpreter may raise it, in all that an application calls of a log.

Where a signal has come, its handler runs behind a call, at the start of a function, or where a loop goes back. Here an
exception is raised at each of these in turn, in the thread that called; then the log must go on, and lose nothing.
(But where a `try` or `with` begins or ends just there: the trace can raise it on the wrong side only.)
"""

from __future__ import annotations

import dis
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import kifa
from tests.reading import read_all

PACKAGE = str(Path(kifa.__file__).parent)
PATIENCE_SECONDS = 60.0
WRITERS = {"kifa-flush", "kifa-compact", "kifa-commit"}
BATCH = 1_200  # of so many some is framed while some is synced
LARGE = bytes(400_000)


class Code:
    """What the trace must know of a function."""

    def __init__(self, code: CodeType) -> None:
        size = len(code.co_code)
        self.is_place = [False] * size
        self.handlers: list[int | None] = [None] * size
        for instruction in dis.get_instructions(code):
            is_place = instruction.opname.startswith(("CALL", "RESUME", "JUMP_BACKWARD"))
            self.is_place[instruction.offset] = is_place
        for entry in dis._parse_exception_table(code):  # type: ignore[attr-defined]
            # The inner ones come first.
            for offset in range(entry.start, entry.end):
                if self.handlers[offset] is None:
                    self.handlers[offset] = entry.target

    def is_between(self, before: int, after: int) -> bool:
        """Whether an interrupt behind the instruction at ``before`` is one at that at ``after``.

        It is not where only the first is in a ``try``, or the reverse: that of the interpreter is at the first.
        """
        return self.is_place[before] and self.handlers[before] == self.handlers[after]


class Interruption:
    """Raises KeyboardInterrupt at place number ``at`` of what Kifa does in this thread; counts them, without."""

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.count = 0
        self.place = ""
        self._codes: dict[CodeType, Code] = {}

    def __enter__(self) -> Interruption:
        sys.settrace(self._on_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _on_call(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        if not frame.f_code.co_filename.startswith((PACKAGE, threading.__file__)):
            return None
        if frame.f_code not in self._codes:
            self._codes[frame.f_code] = Code(frame.f_code)
        code, before = self._codes[frame.f_code], -1
        frame.f_trace_opcodes, frame.f_trace_lines = True, False

        def on_instruction(frame: FrameType, event: str, _: Any) -> Callable[..., Any]:
            nonlocal before
            if event == "opcode":
                if before >= 0 and code.is_between(before, frame.f_lasti):
                    self._at_place(frame)
                before = frame.f_lasti
            return on_instruction

        return on_instruction

    def _at_place(self, frame: FrameType) -> None:
        self.count += 1
        if self.count - 1 == self.at:
            file, name = Path(frame.f_code.co_filename).name, frame.f_code.co_qualname
            self.place = f"{file}:{frame.f_lineno}, {name}"
            raise KeyboardInterrupt


def rotate_by_append(log: kifa.Log) -> None:
    log.append(LARGE)


def rotate_in_a_batch(log: kifa.Log) -> None:
    log.append_many([b"small"] * BATCH + [LARGE, b"end"])


def normal_and_back(log: kifa.Log) -> None:
    log.set_flush_mode("normal")
    log.append(b"normal")
    log.set_flush_mode("cautious")


OPERATIONS: list[Callable[[kifa.Log], object]] = [
    rotate_by_append,
    rotate_in_a_batch,
    normal_and_back,
    kifa.Log.sync,
    kifa.Log.flush,
    kifa.Log.compact,
    kifa.Log.close,
]


def open_log(store: Path) -> kifa.Log:
    log = kifa.open(store, segment_size_mib=1, compaction_threshold=2, compaction_enabled=False)
    for _ in range(2):
        log.append_many([b"flushed"] * 3)
        log.flush()
    log.append_many([LARGE, LARGE])
    return log


def interrupt(store: Path, operation: Callable[[kifa.Log], object], at: int | None) -> int:
    """Interrupt ``operation`` and use the log after that; return how many places there are."""
    log = open_log(store)
    confirmed = read_all(store)
    with Interruption(at) as interruption:
        try:
            operation(log)
        except KeyboardInterrupt:
            assert interruption.place
    lsns: list[int] = []

    def go_on() -> None:
        if operation is not kifa.Log.close:
            lsns.append(log.append(b"goes on"))
        log.close()

    other = threading.Thread(target=go_on, daemon=True)
    other.start()
    other.join(PATIENCE_SECONDS)
    assert not other.is_alive(), f"stands still after {interruption.place}"
    with kifa.open(store, segment_size_mib=1) as log:
        assert not log.damage, interruption.place
        lsns.append(log.append(b"next"))
    entries = read_all(store)
    assert [lsn for lsn, _ in entries] == list(range(1, lsns[-1] + 1)), interruption.place
    assert entries[: len(confirmed)] == confirmed, interruption.place
    told = [b"goes on", b"next"][-len(lsns) :]
    assert [entries[lsn - 1][1] for lsn in lsns] == told, interruption.place
    return interruption.count


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_a_log_goes_on_after_an_interrupt_at_any_place(
    tmp_path: Path, operation: Callable[[kifa.Log], object]
) -> None:
    count = interrupt(tmp_path / "uninterrupted", operation, None)
    assert count > 0
    step = max(count // 60, 1)
    for at in range(0, count, step):
        interrupt(tmp_path / str(at), operation, at)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_opening_can_be_interrupted_at_any_place(tmp_path: Path) -> None:
    store = tmp_path / "store"
    open_log(store).close()
    confirmed = read_all(store)
    at, count = 0, 1
    while at < count:
        with Interruption() as uninterrupted:
            log = kifa.open(store)
        log.close()
        count = uninterrupted.count
        opened: list[kifa.Log] = []
        with Interruption(at) as interruption, suppress(KeyboardInterrupt):
            opened.append(kifa.open(store))
        for log in opened:  # it came to an iterator that was thrown away, and went with it
            assert log.last_lsn == len(confirmed), interruption.place
            log.close()
        left = {thread.name for thread in threading.enumerate()} & WRITERS
        assert not left, interruption.place
        at += max(count // 60, 1)
    with kifa.open(store) as log:
        assert not log.damage
    assert read_all(store) == confirmed
