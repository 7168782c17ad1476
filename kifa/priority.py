"""Whose turn it is where there are more threads than processors."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

# A third of the weight of a thread that appends, which so gets a processor as soon as its sync has returned.
BACKGROUND_NICE = 5


def step_back() -> None:
    """Let other threads go before the calling one, for good; nothing where threads have no priority of their own."""
    if sys.platform == "linux":  # elsewhere it would be the whole process's
        with suppress(OSError):
            nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice + BACKGROUND_NICE)
