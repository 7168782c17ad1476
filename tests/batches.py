"""Making batches and tables for tests, with an encoder of the block columns that shares no code with the product."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from hypothesis import strategies as st

from kifa._batch import Entry, EntryBatch
from kifa._table import unpack_block
from kifa.sstable_format import TableInfo, TableMetadata
from kifa.sstable_writer import write_table

STORE_ID = bytes(range(16))
U64 = 2**64


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 127
        out.append(low | (128 if value else 0))
        if not value:
            return bytes(out)


def zigzag(difference: int) -> int:
    signed = (difference + U64 // 2) % U64 - U64 // 2
    return 2 * signed if signed >= 0 else -2 * signed - 1


def columns(entries: Sequence[Entry]) -> bytes:
    """The raw payload of a block of ``entries``, as docs/FORMAT.md says."""
    previous = min(entry.timestamp_ms for entry in entries)
    times = bytearray()
    for entry in entries:
        times += varint(zigzag(entry.timestamp_ms - previous))
        previous = entry.timestamp_ms
    lengths = b"".join(varint(len(entry.data)) for entry in entries)
    return bytes(times) + lengths + b"".join(entry.data for entry in entries)


def batch_of(entries: Sequence[Entry]) -> EntryBatch:
    """One batch of ``entries``, whose LSNs must be consecutive."""
    low = min(entry.timestamp_ms for entry in entries)
    return unpack_block(columns(entries), entries[0].lsn, len(entries), low)


def batches_of(entries: Sequence[Entry], size: int = 100) -> list[EntryBatch]:
    """Batches of at most ``size`` entries; a gap in the LSNs starts a new one."""
    batches: list[EntryBatch] = []
    run: list[Entry] = []
    for entry in entries:
        if run and (len(run) == size or entry.lsn != run[-1].lsn + 1):
            batches.append(batch_of(run))
            run = []
        run.append(entry)
    return [*batches, batch_of(run)] if run else batches


def numbered(
    data: Iterable[bytes], first_lsn: int = 1, start_ms: int = 1_769_884_200_000
) -> list[Entry]:
    """Entries with consecutive LSNs, a millisecond apart."""
    return [Entry(first_lsn + i, start_ms + i, item) for i, item in enumerate(data)]


def make_table(
    directory: Path,
    entries: Sequence[Entry],
    metadata: TableMetadata | None = None,
    *,
    batch_size: int = 100,
    store_id: bytes = STORE_ID,
) -> TableInfo:
    """Write ``entries`` as a table in ``directory``."""
    directory.mkdir(parents=True, exist_ok=True)
    batches = batches_of(entries, batch_size)
    return write_table(directory, store_id, batches, metadata or TableMetadata())


@st.composite
def entry_lists(draw: st.DrawFn, max_size: int = 60) -> list[Entry]:
    """Lists of entries with ascending LSNs, some gaps, and any timestamps and data."""
    sizes = st.one_of(st.integers(0, 40), st.sampled_from([0, 127, 128, 3000, 40_000, 70_000]))
    items = draw(
        st.lists(
            st.tuples(
                st.sampled_from([1, 1, 1, 1, 1, 2, 1000]),
                st.one_of(
                    st.integers(0, U64 - 1), st.integers(1_700_000_000_000, 1_700_000_001_000)
                ),
                sizes,
                st.binary(min_size=1, max_size=4),
            ),
            min_size=1,
            max_size=max_size,
        )
    )
    lsn, entries = draw(st.sampled_from([0, 5, 2**40])), []
    for step, timestamp, size, seed in items:
        lsn += step
        entries.append(Entry(lsn, timestamp, (seed * (size // len(seed) + 1))[:size]))
    return entries
