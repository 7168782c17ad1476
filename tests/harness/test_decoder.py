"""The second decoder against the product's reader: on whole stores, on killed ones, and on damaged ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.decoder import NotAStoreError, decode
from tests.conftest import run_python
from tests.stores import read_all

GOLDEN = Path(__file__).parent.parent / "golden" / "store-v1"

WRITE = """
import os, signal, sys, kifa
path, runs, end = sys.argv[1], int(sys.argv[2]), sys.argv[3]
lsn = 0
for run in range(runs):
    log = kifa.open(path, segment_size_mib=1, compaction_threshold=3)
    for group in range(1, 30):
        lsn += group
        log.append_many([b"%d of %d " % (lsn, run) * (position % 9) for position in range(group)])
    log.append(os.urandom(70_000))
    if run % 2:
        log.flush()
    for number in range(5):
        log.append(b"lone %d" % number)
    if end == "close" or run < runs - 1:
        log.close()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module", params=["1 close", "1 kill", "2 kill", "7 close"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stores with a log alone, with tables, and with compacted tables; closed or killed."""
    runs, end = request.param.split()
    path: Path = tmp_path_factory.mktemp("written") / "store"
    run_python(WRITE, str(path), runs, end)
    assert path.is_dir()
    return path


def assert_readers_agree(store: Path) -> bool:
    """Compare the readers; return whether they found damage."""
    served, damage = read_all(store)
    decoded = decode(store)
    assert [(e.lsn, e.timestamp_ms, e.data) for e in decoded.entries] == [
        (e.lsn, e.timestamp_ms, e.data) for e in served
    ]
    return any(item.costs_entries for item in damage)


def test_golden_store() -> None:
    assert decode(GOLDEN).damage == ()
    assert not assert_readers_agree(GOLDEN)


def test_whole_stores(written: Path) -> None:
    assert not assert_readers_agree(written)
    assert decode(written).damage == ()


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_stores(
    written: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Whatever is damaged, both serve the same; and damage that costs entries is named by both."""
    store = tmp_path_factory.mktemp("damaged") / "store"
    shutil.copytree(written, store)
    files = sorted([*store.glob("wal/*.wal"), *store.glob("sst/*.sst")])
    for _ in range(data.draw(st.integers(1, 3))):
        _damage(data.draw, data.draw(st.sampled_from(files)))
    if assert_readers_agree(store):
        assert decode(store).damage
    shutil.rmtree(store.parent)


def _damage(draw: Callable[[st.SearchStrategy[int]], int], path: Path) -> None:
    image = bytearray(path.read_bytes())
    if not image:
        return
    # What is used of a preallocated segment, and a little more.
    used = len(image.rstrip(b"\0")) + 512
    offset = draw(st.integers(0, min(used, len(image)) - 1))
    kind = draw(st.sampled_from([0, 1, 2, 3]))
    if kind == 0:
        image[offset] ^= 1 << draw(st.integers(0, 7))
    elif kind == 1:
        sector = offset // 512 * 512
        image[sector : sector + 512] = bytes(len(image[sector : sector + 512]))
    elif kind == 2:
        image[offset : offset + 4096] = b"\xa5" * len(image[offset : offset + 4096])
    else:
        del image[offset:]
    path.write_bytes(image)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(NotAStoreError, match="holds no store"):
        decode(tmp_path)
