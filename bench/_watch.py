"""Runs a command and tells what it used. A program of its own, so small that its own memory hides nothing.

usage: python -I -S _watch.py FD COMMAND...: writes seconds, peak KiB, bytes written and CPU seconds to FD.
A process begins its life with the peak of memory of the process that started it; hence this one, without imports.
"""

import os
import sys
import time

started = time.perf_counter()
descriptor = int(sys.argv[1])
os.set_inheritable(descriptor, False)
child = os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ)
for standard in (0, 1):
    os.close(standard)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - started
processor = usage.ru_utime + usage.ru_stime
line = f"{seconds} {usage.ru_maxrss} {usage.ru_oublock * 512} {processor}\n"
os.write(descriptor, line.encode())
sys.stderr.flush()
os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
