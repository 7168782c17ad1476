"""Zstandard: the standard library's from Python 3.14 on, its backport before."""

import sys

if sys.version_info >= (3, 14):
    import _zstd
    from compression.zstd import ZstdCompressor, ZstdDecompressor, ZstdError
else:
    from backports.zstd import ZstdCompressor, ZstdDecompressor, ZstdError, _zstd

# What has the functions of the C library, if they can be had: its module may be part of the interpreter.
LIBRARY_PATH: str | None = getattr(_zstd, "__file__", None)

__all__ = ["LIBRARY_PATH", "ZstdCompressor", "ZstdDecompressor", "ZstdError"]
