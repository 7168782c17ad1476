"""The second reader: from docs/FORMAT.md alone, in plain Python, to disagree with `kifa` when one of the two is wrong.

It reads a store at rest. It is slow and simple on purpose: no index, no memory limit, of the manifest
nothing but the store it belongs to; whatever the bytes themselves say.
"""

from harness.decoder.store import Decoded, DecodedEntry, NotAStoreError, decode

__all__ = ["Decoded", "DecodedEntry", "NotAStoreError", "decode"]
