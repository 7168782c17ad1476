"""Any sequence of append, batch, sync, flush, compact, kill and reopen, against a list."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.reading import read_all

# The log lives in a process of its own, so that it can be killed; it answers each command once it is done.
SERVER = """
import json, sys, kifa
log = kifa.open(sys.argv[1], flush_mode=sys.argv[2], segment_size_mib=1, compaction_threshold=2)
print(log.last_lsn, flush=True)
for line in sys.stdin:
    command, argument = json.loads(line)
    if command == "append":
        print(log.append(bytes.fromhex(argument)), flush=True)
    elif command == "append_many":
        print(log.append_many([bytes.fromhex(item) for item in argument])[-1], flush=True)
    elif command == "large":
        print(log.append_many([bytes([argument]) * 300_000] * 4)[-1], flush=True)
    elif command == "mode":
        log.set_flush_mode(argument)
        print(log.durable_lsn, flush=True)
    else:
        getattr(log, command)()
        print(log.durable_lsn, flush=True)
"""
DATA = st.binary(max_size=300)


class LogMachine(RuleBasedStateMachine):
    """`model` is what was written, `safe` how much of it must survive a kill of the process."""

    @initialize(mode=st.sampled_from(["normal", "cautious", "emergency"]))
    def create(self, mode: str) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.store = self.directory / "store"
        self.model: list[bytes] = []
        self.mode = mode
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(self.store), self.mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        recovered = self.answer()
        assert recovered <= len(self.model)
        lost = len(self.model) - recovered
        assert lost <= (49 if self.mode == "normal" else 0)
        del self.model[recovered:]

    def answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def tell(self, command: str, argument: object = None) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([command, argument]).encode() + b"\n")
        self.process.stdin.flush()
        return self.answer()

    @rule(data=DATA)
    def append(self, data: bytes) -> None:
        assert self.tell("append", data.hex()) == len(self.model) + 1
        self.model.append(data)

    @rule(items=st.lists(DATA, min_size=1, max_size=200))
    def append_many(self, items: list[bytes]) -> None:
        assert self.tell("append_many", [item.hex() for item in items]) == len(self.model) + len(
            items
        )
        self.model += items

    @rule(byte=st.integers(0, 255))
    def append_large(self, byte: int) -> None:
        assert self.tell("large", byte) == len(self.model) + 4
        self.model += [bytes([byte]) * 300_000] * 4

    @rule(command=st.sampled_from(["sync", "flush", "compact"]))
    def maintain(self, command: str) -> None:
        durable = self.tell(command)
        assert durable == len(self.model) or command == "compact"

    @rule()
    def emergency_and_back(self) -> None:
        self.tell("mode", "emergency")
        self.tell("mode", self.mode)

    @rule()
    def kill_and_reopen(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.finish()
        self.start()

    @rule()
    def close_and_reopen(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(["close", None]).encode() + b"\n")
        self.process.stdin.close()
        self.process.wait(timeout=30)
        self.finish()
        before = len(self.model)
        self.start()
        assert len(self.model) == before

    def finish(self) -> None:
        self.process.wait(timeout=30)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None and not stream.closed:
                stream.close()

    @invariant()
    def a_reader_sees_an_exact_prefix(self) -> None:
        found = read_all(self.store)
        assert [lsn for lsn, _ in found] == list(range(1, len(found) + 1))
        assert [data for _, data in found] == self.model[: len(found)]
        assert len(found) >= len(self.model) - (49 if self.mode == "normal" else 0)

    def teardown(self) -> None:
        if hasattr(self, "process"):
            self.process.kill()
            self.finish()
            shutil.rmtree(self.directory)


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
