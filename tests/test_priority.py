"""Threads that flush and compact let those that append go first."""

import os
import threading
import time

import kifa
from kifa.priority import BACKGROUND_NICE, step_back


def _nice(thread_id: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread_id)


def test_only_the_calling_thread_steps_back():
    seen = []
    own = _nice(0)

    def body():
        step_back()
        seen.append(_nice(threading.get_native_id()))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [min(own + BACKGROUND_NICE, 19)]
    assert _nice(0) == own


def test_flush_and_compaction_step_back_and_the_committer_does_not(tmp_path):
    with kifa.open(tmp_path, flush_mode="normal"):
        own = _nice(0)
        expected = {
            "kifa-flush": min(own + BACKGROUND_NICE, 19),
            "kifa-compact": min(own + BACKGROUND_NICE, 19),
        }
        expected["kifa-commit"] = own
        threads = {t.name: t.native_id for t in threading.enumerate() if t.name in expected}
        deadline = time.monotonic() + 20
        while {name: _nice(number) for name, number in threads.items()} != expected:
            assert time.monotonic() < deadline, "each thread sets its priority when it begins"
            time.sleep(0.001)
