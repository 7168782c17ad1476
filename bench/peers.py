"""Kifa and its peers behind one small interface, each as durable as Kifa in the same flush mode.

cautious, emergency: durable when `append` returns. normal: at most 49 entries are not yet durable.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import kifa

NORMAL_GROUP = 50
LMDB_MAP_SIZE_BYTES = 64 << 30


class PeerError(Exception):
    """A peer is not known, or not installed."""


class Store(ABC):
    """A log of entries. Threads may share one unless `for_thread` returns another."""

    name: ClassVar[str]
    not_equal: ClassVar[str] = ""

    def __init__(self, path: Path, mode: str = "cautious") -> None:
        self.path = path
        self.is_normal = mode == "normal"
        self.appended = 0

    @abstractmethod
    def append(self, data: bytes) -> object:
        """Log one entry."""

    @abstractmethod
    def append_many(self, items: Sequence[bytes]) -> object:
        """Log several entries with one sync."""

    @abstractmethod
    def close(self) -> None:
        """Make everything durable and let go."""

    @abstractmethod
    def sync(self) -> None:
        """Make durable what normal mode has not yet."""

    def for_thread(self) -> Store:
        """Return what another thread may append to at the same time."""
        return self

    @abstractmethod
    def last(self) -> object:
        """Return the last entry: what reopening is for."""

    def _is_due(self) -> bool:
        """Count an append, and tell whether it is to be synced."""
        self.appended += 1
        return not self.is_normal or self.appended % NORMAL_GROUP == 0


class KifaStore(Store):
    """The product, through its library."""

    name = "kifa"

    def __init__(self, path: Path, mode: str = "cautious", **settings: Any) -> None:
        super().__init__(path, mode)
        self.log = kifa.open(path, flush_mode=mode, **settings)
        self.append = self.log.append  # type: ignore[method-assign]  # not one call more than users pay
        self.append_many = self.log.append_many  # type: ignore[method-assign]

    def append(self, data: bytes) -> object:  # pragma: no cover  # replaced above
        raise AssertionError

    def append_many(self, items: Sequence[bytes]) -> object:  # pragma: no cover  # replaced above
        raise AssertionError

    def sync(self) -> None:
        self.log.sync()

    def last(self) -> object:
        return self.log.last_lsn

    def close(self) -> None:
        self.log.close()


class Sqlite(Store):
    """WAL, synchronous=FULL: a transaction for each sync."""

    name = "sqlite"

    def __init__(self, path: Path, mode: str = "cautious") -> None:
        super().__init__(path, mode)
        path.mkdir(parents=True, exist_ok=True)
        self._open = False
        self._connection = sqlite3.connect(
            path / "log.db", isolation_level=None, timeout=60, check_same_thread=False
        )
        run = self._connection.execute
        run("PRAGMA journal_mode=WAL")
        run("PRAGMA synchronous=FULL")
        run(
            "CREATE TABLE IF NOT EXISTS log"
            " (lsn INTEGER PRIMARY KEY, timestamp_ms INTEGER NOT NULL, data BLOB NOT NULL)"
        )

    def append(self, data: bytes) -> object:
        if self.is_normal and not self._open:
            self._connection.execute("BEGIN IMMEDIATE")
            self._open = True
        self._insert(data)
        if self._is_due() and self._open:
            self.sync()
        return None

    def _insert(self, data: bytes) -> None:
        statement = "INSERT INTO log (timestamp_ms, data) VALUES (?, ?)"
        self._connection.execute(statement, (time.time_ns() // 1_000_000, data))

    def append_many(self, items: Sequence[bytes]) -> object:
        self.sync()
        now = time.time_ns() // 1_000_000
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(
            "INSERT INTO log (timestamp_ms, data) VALUES (?, ?)", ((now, data) for data in items)
        )
        self._connection.execute("COMMIT")
        return None

    def sync(self) -> None:
        if self._open:
            self._connection.execute("COMMIT")
            self._open = False

    def for_thread(self) -> Store:
        return Sqlite(self.path)

    def last(self) -> object:
        return self._connection.execute("SELECT data FROM log ORDER BY lsn DESC LIMIT 1").fetchone()

    def close(self) -> None:
        self.sync()
        self._connection.close()


class _Keyed(Store):
    """Peers of keys and values: the key is the LSN, the value the timestamp and the data."""

    def __init__(self, path: Path, mode: str = "cautious") -> None:
        super().__init__(path, mode)
        path.mkdir(parents=True, exist_ok=True)
        self._next = time.time_ns()  # above all that an earlier life of this store used

    def _pairs(self, items: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        now = struct.pack("<Q", time.time_ns() // 1_000_000)
        first, self._next = self._next, self._next + len(items)
        return [(struct.pack(">Q", first + i), now + data) for i, data in enumerate(items)]

    def _pair(self, data: bytes) -> tuple[bytes, bytes]:
        # Threads may take the same number: each then writes as much, and nobody reads it here.
        self._next = number = self._next + 1
        return struct.pack(">Q", number), struct.pack("<Q", time.time_ns() // 1_000_000) + data


class Lmdb(_Keyed):
    """A transaction for each sync."""

    name = "lmdb"

    def __init__(self, path: Path, mode: str = "cautious") -> None:
        super().__init__(path, mode)
        self._environment = import_module("lmdb").open(str(path), map_size=LMDB_MAP_SIZE_BYTES)
        self._transaction: Any = None

    def append(self, data: bytes) -> object:
        if not self.is_normal:
            return self.append_many([data])
        if self._transaction is None:
            self._transaction = self._environment.begin(write=True)
        self._transaction.put(*self._pair(data))
        if self._is_due():
            self.sync()
        return None

    def append_many(self, items: Sequence[bytes]) -> object:
        self.sync()
        with self._environment.begin(write=True) as transaction:
            for pair in self._pairs(items):
                transaction.put(*pair)
        return None

    def sync(self) -> None:
        if self._transaction is not None:
            self._transaction.commit()
            self._transaction = None

    def last(self) -> object:
        with self._environment.begin() as transaction, transaction.cursor() as cursor:
            return cursor.last() and cursor.value()

    def close(self) -> None:
        self.sync()
        self._environment.close()


class RocksDb(_Keyed):
    """Its write-ahead log, synced; data as raw bytes."""

    name = "rocksdb"

    def __init__(self, path: Path, mode: str = "cautious") -> None:
        super().__init__(path, mode)
        self._library = import_module("rocksdict")
        self._database = self._library.Rdict(str(path), self._library.Options(raw_mode=True))
        self._options = {}
        for sync in (False, True):
            self._options[sync] = self._library.WriteOptions()
            self._options[sync].sync = sync

    def append(self, data: bytes) -> object:
        key, value = self._pair(data)
        self._database.put(key, value, write_opt=self._options[self._is_due()])
        return None

    def append_many(self, items: Sequence[bytes]) -> object:
        batch = self._library.WriteBatch(raw_mode=True)
        for key, value in self._pairs(items):
            batch.put(key, value)
        self._database.write(batch, write_opt=self._options[True])
        return None

    def sync(self) -> None:
        if self.is_normal:
            self.append_many([b""])

    def last(self) -> object:
        iterator = self._database.iter()
        iterator.seek_to_last()
        return iterator.value()

    def close(self) -> None:
        self.sync()
        self._database.close()


class LevelDb(_Keyed):
    """Its write-ahead log, synced."""

    name = "leveldb"

    def __init__(self, path: Path, mode: str = "cautious") -> None:
        super().__init__(path, mode)
        self._database = import_module("plyvel").DB(str(path), create_if_missing=True)

    def append(self, data: bytes) -> object:
        return self._database.put(*self._pair(data), sync=self._is_due())

    def append_many(self, items: Sequence[bytes]) -> object:
        with self._database.write_batch(sync=True) as batch:
            for pair in self._pairs(items):
                batch.put(*pair)
        return None

    def sync(self) -> None:
        if self.is_normal:
            self.append_many([b""])

    def last(self) -> object:
        return next(self._database.iterator(reverse=True))

    def close(self) -> None:
        self.sync()
        self._database.close()


class Plain(Store):
    """Lines appended to a growing file with write and fdatasync: no framing, no checksum, no index."""

    name = "plain"
    not_equal = "no checksum: a torn or rotten line goes unnoticed"

    def __init__(self, path: Path, mode: str = "cautious") -> None:
        super().__init__(path, mode)
        path.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(path / "log", flags, 0o644)

    def append(self, data: bytes) -> object:
        os.write(self._descriptor, data + b"\n")
        if self._is_due():
            os.fdatasync(self._descriptor)
        return None

    def append_many(self, items: Sequence[bytes]) -> object:
        view = memoryview(b"\n".join(items) + b"\n")
        while view:
            view = view[os.write(self._descriptor, view) :]
        os.fdatasync(self._descriptor)
        return None

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def last(self) -> object:
        size = os.fstat(self._descriptor).st_size
        return os.pread(self._descriptor, 4096, max(size - 4096, 0))

    def close(self) -> None:
        self.sync()
        os.close(self._descriptor)


PEERS: dict[str, type[Store]] = {
    store.name: store for store in (Sqlite, Lmdb, RocksDb, LevelDb, Plain)
}
MODULES = {"lmdb": "lmdb", "rocksdb": "rocksdict", "leveldb": "plyvel"}


def installed_version(peer: str) -> str | None:
    """Return the version of a peer's library; None where it is not installed."""
    if peer == "plain":
        return "os.write"
    if peer == "sqlite":
        return sqlite3.sqlite_version
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(MODULES[peer])
    except PackageNotFoundError:
        return None


def check_peers(names: Sequence[str]) -> None:
    """Raise PeerError, saying what to do, unless every name is a peer that is installed."""
    for name in names:
        if name not in PEERS:
            raise PeerError(f"{name!r} is no peer; choose from {', '.join(PEERS)}")
        if installed_version(name) is None:
            raise PeerError(
                f"{name} needs {MODULES[name]}, which is not installed: pip install 'kifa[bench]',"
                f" or leave {name} out of --peers"
            )
