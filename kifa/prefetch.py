"""Running an iterator ahead in a thread of its own: blocks are decoded while others are formatted and written.

Items are handed over several at a time: each handing over costs two changes of threads.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator
from itertools import islice

from kifa._typing import TypeVar

Item = TypeVar("Item")

CHUNK_ITEMS = 8
CHUNKS_AHEAD = 2


def prefetched(
    source: Generator[Item, None, None], chunk_items: int = CHUNK_ITEMS
) -> Generator[Item, None, None]:
    """Yield what ``source`` yields, computed a bounded number of items ahead; its error comes behind them.

    Args:
        chunk_items: how many are handed over at once; two times as many wait.

    Closing the result, or leaving it unfinished, closes ``source``.
    """
    ready: queue.Queue[list[Item] | None] = queue.Queue(CHUNKS_AHEAD)
    stop = threading.Event()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            while not stop.is_set():
                chunk: list[Item] = []
                try:
                    chunk.extend(islice(source, chunk_items))
                finally:  # what came before an error counts
                    if chunk:
                        ready.put(chunk)
                if len(chunk) < chunk_items:
                    break
            source.close()
        except BaseException as error:
            failure.append(error)
        ready.put(None)

    thread = threading.Thread(target=run, name="kifa-prefetch", daemon=True)
    thread.start()
    chunk: list[Item] | None = None
    try:
        while (chunk := ready.get()) is not None:
            yield from chunk
        if failure:
            raise failure[0]
    finally:
        stop.set()
        while thread.is_alive():  # it may wait for room
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.01)
        thread.join()
