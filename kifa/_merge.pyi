from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from kifa._batch import EntryBatch
from kifa.errors import Damage
from kifa.sstable import SkippedRange

class Source(Protocol):
    @property
    def min_lsn(self) -> int: ...
    @property
    def max_lsn(self) -> int: ...
    def batches(
        self,
        from_lsn: int,
        to_lsn: int,
        *,
        from_time: int,
        to_time: int,
        reverse: bool,
        on_damage: Callable[[Damage], None] | None,
    ) -> Iterator[EntryBatch | SkippedRange]: ...

class MissingRange:
    first_lsn: int
    last_lsn: int
    def __init__(self, first_lsn: int, last_lsn: int) -> None: ...

def merge(
    sources: Iterable[Source],
    from_lsn: int,
    to_lsn: int,
    *,
    from_time: int = 0,
    to_time: int | None = None,
    reverse: bool = False,
    on_damage: Callable[[Damage], None] | None = None,
) -> Iterator[EntryBatch | SkippedRange | MissingRange]: ...
