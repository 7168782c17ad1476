"""Crash-proof local logging for devices on unreliable power.

with kifa.open("/var/lib/shop") as log:
    lsn = log.append(b'{"txn": 1}')        # durable on return

for entry in kifa.reader("/var/lib/shop").entries():
    print(entry.lsn, entry.timestamp_ms, entry.data)
"""

from __future__ import annotations

from kifa._typing import TYPE_CHECKING
from kifa.errors import (
    ClosedError,
    ConfigError,
    ConnectionLostError,
    Damage,
    DamagedError,
    EntryRefusedError,
    EntryTooLargeError,
    ExitCode,
    ForkedError,
    KifaError,
    LockedError,
    NoSpaceError,
    NotAStoreError,
    PoisonedError,
    UnwritableError,
    UsageError,
)

if TYPE_CHECKING:
    from kifa._batch import Entry
    from kifa.async_client import AsyncClient, connect_async
    from kifa.client import Client
    from kifa.client import Client as connect
    from kifa.engine import Log
    from kifa.engine import Log as open
    from kifa.query import Reader
    from kifa.query import Reader as reader

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Client",
    "ClosedError",
    "ConfigError",
    "ConnectionLostError",
    "Damage",
    "DamagedError",
    "Entry",
    "EntryRefusedError",
    "EntryTooLargeError",
    "ExitCode",
    "ForkedError",
    "KifaError",
    "LockedError",
    "Log",
    "NoSpaceError",
    "NotAStoreError",
    "PoisonedError",
    "Reader",
    "UnwritableError",
    "UsageError",
    "connect",
    "connect_async",
    "open",
    "reader",
]

# Loaded on first use: a command that only reads need not load the writer, nor `kifa --version` either.
_LAZY = {
    "AsyncClient": ("kifa.async_client", "AsyncClient"),
    "connect_async": ("kifa.async_client", "connect_async"),
    "Client": ("kifa.client", "Client"),
    "connect": ("kifa.client", "Client"),
    "Entry": ("kifa._batch", "Entry"),
    "Log": ("kifa.engine", "Log"),
    "open": ("kifa.engine", "Log"),
    "Reader": ("kifa.query", "Reader"),
    "reader": ("kifa.query", "Reader"),
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module 'kifa' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _LAZY[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value
