"""The lines that a cycle sends: transactions, each of which says who sent it, which it is, and its digest.

All of it comes from the seed, so that a line is known from (seed, source, number) alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Iterator

from harness.transactions import Population, transactions

EPOCH_S = 1_767_225_600.0  # of the transactions, which are the same whenever they are sent
DIGEST_SIZE_CHARACTERS = 16
HEAVY_SIZE_BYTES = (8_000, 60_000)


def lines(seed: int, source: str, *, heavy: bool) -> Iterator[bytes]:
    """Give the lines of a source, without their line ends and without end.

    Args:
        seed: of the cycle.
        source: unique within a store.
        heavy: most lines carry a picture, so that segments and memtables fill within a short feed.
    """
    choices = random.Random(f"{seed} {source}")
    ticks = itertools.count()
    numbers = itertools.count(1)
    for block in transactions(choices.getrandbits(32), Population(), lambda: EPOCH_S + next(ticks)):
        for transaction, number in zip(block, numbers, strict=False):
            fields = (
                f'"source":"{source}","number":{number},"transaction":{transaction[:-1].decode()}'
            )
            if heavy and choices.random() < 0.9:
                size_bytes = choices.randrange(*HEAVY_SIZE_BYTES)
                picture = f"{choices.getrandbits(256):064x}" * (size_bytes // 64 + 1)
                fields += f',"picture":"{picture[:size_bytes]}"'
            yield f'{{{fields},"digest":"{_digest(fields)}"}}'.encode()


def is_whole(line: bytes) -> bool:
    """Whether a line is as it was made: the digest in it is that of the rest. For messages, not for judging."""
    head, mark, tail = line.partition(b',"digest":"')
    expected = _digest(head[1:].decode(errors="replace")).encode() + b'"}'
    return bool(mark) and tail == expected


def name_of(line: bytes) -> str:
    """Source and number of a line, for messages; "an unknown line" if it is none of ours."""
    try:
        fields = json.loads(line)
        return f"{fields['source']} number {fields['number']}"
    except (ValueError, KeyError, TypeError):
        return "an unknown line"


def _digest(fields: str) -> str:
    return hashlib.sha256(fields.encode()).hexdigest()[:DIGEST_SIZE_CHARACTERS]
