"""Group commit under threads that get in each other's way."""

from __future__ import annotations

import threading
from pathlib import Path

import kifa
from tests.reading import read_all


def test_a_batch_beside_threads_that_sync(store: Path) -> None:
    """What fills a group may be in flight before the batch asks for it; there is nothing to sync then."""
    expected = []
    with kifa.open(store, segment_size_mib=1, channel_capacity=1) as log:
        done = threading.Event()

        def sync() -> None:
            while not done.is_set():
                log.sync()

        threads = [threading.Thread(target=sync) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for part in range(6):
                # A segment holds two of them: most groups follow a rotation, which closes the file of the one before.
                items = [b"%d %d " % (part, number) + bytes(400_000) for number in range(20)]
                log.append_many(items)
                expected += items
        finally:
            done.set()
            for thread in threads:
                thread.join()
    assert [data for _, data in read_all(store)] == expected
