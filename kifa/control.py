"""The data of control records (docs/FORMAT.md, "Record")."""

from __future__ import annotations

import json
import struct

from kifa._typing import Any

SOURCE_CHECKPOINT = 1
CLOCK_STEP = 2
CLOSE = 3

_KEY_LENGTH = struct.Struct("<H")
_CLOCK_STEP = struct.Struct("<QQ")


def encode_source_checkpoint(key: str, value: Any) -> bytes:
    """Return the data of a source checkpoint: how far the source named ``key`` has been read."""
    name = key.encode("utf-8", "surrogateescape")
    content = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _KEY_LENGTH.pack(len(name)) + name + content.encode("utf-8", "surrogateescape")


def decode_source_checkpoint(data: bytes) -> tuple[str, Any]:
    """Return (key, value) of a source checkpoint."""
    (length,) = _KEY_LENGTH.unpack_from(data)
    name = data[_KEY_LENGTH.size : _KEY_LENGTH.size + length]
    content = data[_KEY_LENGTH.size + length :]
    return (
        name.decode("utf-8", "surrogateescape"),
        json.loads(content.decode("utf-8", "surrogateescape")),
    )


def decode_clock_step(data: bytes) -> tuple[int, int]:
    """Return (expected, actual) wall clock in ms."""
    expected, actual = _CLOCK_STEP.unpack(data)
    return expected, actual
