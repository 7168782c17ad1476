"""Lines appended to a file, each as "LSN milliseconds line"; how carefully is the policy.

| policy | what it does |
|---|---|
| fsync | write, sync, acknowledge; a new file's name is synced too |
| no-fsync | write, acknowledge |
| late-fsync | write, acknowledge, sync every 50 ms |
| no-directory-sync | as fsync, but the name of a new file is not synced |
| reversed | as fsync, but lines that came together are written in reverse |
| twice | as fsync, but the last line is written again at each start |
| counts-anew | as fsync, but LSNs begin with 1 at each start |
| lock-file | as fsync, but a file that says "in use" outlives a crash |
| silent | as fsync, but nothing is acknowledged, except the first line of an old store |
"""

from __future__ import annotations

import os
import sys

from harness.crash_test.programs.lines import acknowledge, batches, fail, now_ms, tell_ready

FILE_NAME = "lines"
LATE_MS = 50
_synced_at_ms = 0


def run(directory: str, policy: str) -> None:
    """Store lines until the input ends."""
    os.makedirs(directory, exist_ok=True)
    if policy == "lock-file":
        _lock(directory)
    descriptor = os.open(f"{directory}/{FILE_NAME}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if policy != "no-directory-sync":
        for name in (directory, os.path.dirname(directory)):
            _sync_directory(name)
    lines = _recover(descriptor)
    next_lsn = 1 if policy == "counts-anew" else len(lines) + 1
    if policy == "twice" and lines:
        os.write(descriptor, b"%d %d %s\n" % (next_lsn, now_ms(), lines[-1].split(b" ", 2)[2]))
        next_lsn += 1
    is_old = bool(lines)
    tell_ready()
    for batch in batches():
        _store(descriptor, batch, next_lsn, policy)
        if policy == "silent" and is_old:
            acknowledge(next_lsn, 1)
            is_old = False
        next_lsn += len(batch)


def _recover(descriptor: int) -> list[bytes]:
    """Return the whole lines, and cut off a half one."""
    content = b""
    while chunk := os.read(descriptor, 1 << 20):
        content += chunk
    *lines, half = content.split(b"\n")
    os.truncate(descriptor, len(content) - len(half))
    os.lseek(descriptor, 0, os.SEEK_END)
    os.fsync(descriptor)
    return lines


def _store(descriptor: int, batch: list[bytes], first_lsn: int, policy: str) -> None:
    written = reversed(batch) if policy == "reversed" else batch
    time_ms = now_ms()
    numbered = enumerate(written, first_lsn)
    data = b"".join(b"%d %d %s\n" % (lsn, time_ms, line) for lsn, line in numbered)
    while data:
        data = data[os.write(descriptor, data) :]
    if policy == "late-fsync":
        acknowledge(first_lsn, len(batch))
    if policy != "no-fsync" and (policy != "late-fsync" or _is_due()):
        os.fdatasync(descriptor)
    if policy == "reversed":
        for lsn in range(first_lsn + len(batch) - 1, first_lsn - 1, -1):
            acknowledge(lsn, 1)
    elif policy not in ("late-fsync", "silent"):
        acknowledge(first_lsn, len(batch))


def _is_due() -> bool:
    """Whether the last late sync was long enough ago."""
    global _synced_at_ms
    if now_ms() - _synced_at_ms < LATE_MS:
        return False
    _synced_at_ms = now_ms()
    return True


def _lock(directory: str) -> None:
    try:
        os.close(os.open(f"{directory}/in-use", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        fail(f"{directory}: in use by another process, or so it seems")
    _sync_directory(directory)


def _sync_directory(name: str) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(descriptor)
    os.close(descriptor)


if __name__ == "__main__":
    run(*sys.argv[1:])
