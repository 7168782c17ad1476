"""Commands of Kifa as processes: how long they take, what they use, when they are ready."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.installation import installation

DEADLINE_SECONDS = 600.0
_WATCH = str(Path(__file__).with_name("_watch.py"))


class CommandError(Exception):
    """A command that was measured failed."""


@dataclass(frozen=True, slots=True)
class Use:
    """What a command used from start to exit."""

    seconds: float
    peak_mib: float
    written_bytes: int
    processor_seconds: float


def environment(**settings: object) -> dict[str, str]:
    """Return the environment for Kifa: of this process, without its settings, with ``settings``."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("KIFA_")}
    kept.pop("PYTHONUNBUFFERED", None)
    return {**kept, "KIFA_LOG": "warning"} | {f"KIFA_{k}": str(v) for k, v in settings.items()}


def run(
    command: Sequence[str],
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
) -> Use:
    """Run ``command`` to its end.

    Raises:
        CommandError: it did not end with 0.
    """
    reading, writing = os.pipe()
    try:
        watched = [sys.executable, "-I", "-S", _WATCH, str(writing), *command]
        process = subprocess.Popen(
            watched,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            pass_fds=(writing,),
            env=environment() if env is None else env,
            process_group=0,
        )
        os.close(writing)
        writing = -1
        try:
            _, complaint = process.communicate(timeout=DEADLINE_SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        if process.returncode:
            raise CommandError(f"{' '.join(command)}: {_last_line(complaint)}")
        seconds, peak_kib, written, processor = os.read(reading, 4096).split()
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    return Use(float(seconds), int(peak_kib) / 1024, int(written), float(processor))


def _last_line(text: bytes) -> str:
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it failed and did not say why"


class Daemon:
    """A running `kifa daemon`, ready; use as a context. Standard input and output are pipes."""

    def __init__(self, store: Path, *options: str, **settings: object) -> None:
        """Start a daemon on ``store`` with ``options``, and wait until it is ready.

        Raises:
            CommandError: it ended, or was not ready in time.
        """
        self._directory = tempfile.TemporaryDirectory(prefix="kifa-bench-")
        address = f"{self._directory.name}/notify"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(address)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the daemon)
        started = time.perf_counter()
        self.process = subprocess.Popen(
            [*installation().kifa, "daemon", "-d", str(store), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment(**settings) | {"NOTIFY_SOCKET": address},
        )
        self._wait_until_ready()
        self.seconds_to_ready = time.perf_counter() - started
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < end:
            readable, _, _ = select.select([self._notify], [], [], 0.05)
            if readable and b"READY=1" in self._notify.recv(4096):
                return
            if not readable and self.process.poll() is not None:
                break
        complaint = self._complaint()
        self._end()
        raise CommandError(f"kifa daemon did not get ready: {complaint}")

    def _complaint(self) -> str:
        self._errors.seek(0)
        return _last_line(self._errors.read())

    def status(self, field: str, file: str = "status") -> int:
        """Return a number of KiB of ``/proc/PID/<file>``, `VmHWM` say; 0 where it is not there."""
        text = Path(f"/proc/{self.process.pid}/{file}").read_text()
        match = re.search(rf"^{field}:\s+(\d+)", text, re.MULTILINE)
        return int(match[1]) if match else 0

    def private_kib(self) -> int:
        """Return the memory that only this process has."""
        fields = ("Private_Clean", "Private_Dirty")
        return sum(self.status(field, "smaps_rollup") for field in fields)

    def wake_ups(self) -> int:
        """Return how often its threads gave up or lost a processor so far."""
        total = 0
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            text = (task / "status").read_text()
            total += sum(map(int, re.findall(r"voluntary_ctxt_switches:\s+(\d+)", text)))
        return total

    def finish(self) -> None:
        """Close standard input and wait for the end.

        Raises:
            CommandError: it did not end with 0, 130 or 143.
        """
        self.stdin.close()
        if self.process.poll() is None:
            # `Popen.wait` with a time looks every 50 ms; that would be a part of what is measured.
            descriptor = os.pidfd_open(self.process.pid)
            try:
                select.select([descriptor], [], [], DEADLINE_SECONDS)
            finally:
                os.close(descriptor)
        self.process.wait(1)
        if self.process.returncode not in (0, 130, 143):
            raise CommandError(f"kifa daemon: {self._complaint()}")

    def stop(self) -> None:
        """Send SIGTERM and wait for the end. Raises as `finish`."""
        self.process.send_signal(signal.SIGTERM)
        self.finish()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._notify.close()
        self._directory.cleanup()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()


@contextlib.contextmanager
def feeding(command: Sequence[str]) -> Iterator[IO[bytes]]:
    """Run ``command`` and give its standard output."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.stdout.close()
            if process.poll() is None:
                process.terminate()


@contextlib.contextmanager
def draining(descriptor: int) -> Iterator[dict[str, Any]]:
    """Read ``descriptor`` to its end in a thread; the dictionary then has ``bytes`` and ``lines``."""
    found = {"bytes": 0, "lines": 0}

    def read() -> None:
        while chunk := os.read(descriptor, 1 << 20):
            found["bytes"] += len(chunk)
            found["lines"] += chunk.count(b"\n")

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield found
    finally:
        thread.join()
