from collections.abc import Iterator

from kifa._batch import EntryBatch
from kifa._window import SegmentWindow

class Extent:
    start: int
    end: int
    first_lsn: int
    last_lsn: int
    entries: int
    controls: int
    min_timestamp: int
    max_timestamp: int

class BrokenGroup:
    start: int
    end: int
    has_start: bool
    has_end: bool
    is_last: bool
    extents: list[Extent]
    areas: list[tuple[int, int]]

class Survey:
    start: int
    extents: list[Extent]
    broken: list[BrokenGroup]
    last_group: Extent | None
    end: int
    closed: bool

class SegmentScanner(SegmentWindow):
    def survey(self, thorough: bool = False) -> Survey: ...
    found: Survey
    def begin(
        self, start: int = ..., after_lsn: int = 0, chunks: Iterator[memoryview] | None = None
    ) -> None: ...
    def next_extent(self, thorough: bool = False) -> Extent | None: ...
    def read_walked(self, extent: Extent) -> EntryBatch | None: ...
    def advance(self, size_bytes: int) -> tuple[list[Extent], bool]: ...
    def read(self, extent: Extent) -> EntryBatch | None: ...
    def read_controls(
        self, extent: Extent, below_lsn: int | None = None, walked: bool = False
    ) -> list[tuple[int, int, int, bytes]]: ...
