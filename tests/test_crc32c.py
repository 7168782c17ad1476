"""CRC-32C against an independent implementation."""

from __future__ import annotations

import crc32c as oracle
from hypothesis import given
from hypothesis import strategies as st

from kifa._crc32c import crc32c, crc32c_by_table

SEED = st.integers(0, 2**32 - 1)


@given(st.binary(max_size=9_000), SEED)
def test_both_ways_agree_with_the_oracle(data: bytes, seed: int) -> None:
    assert crc32c(data, seed) == crc32c_by_table(data, seed) == oracle.crc32c(data, seed)


@given(st.binary(max_size=300), st.integers(3_000, 40_000), SEED)
def test_long_input_takes_three_lanes(data: bytes, size: int, seed: int) -> None:
    content = (data + b"x") * (size // (len(data) + 1) + 1)
    assert crc32c(content, seed) == crc32c_by_table(content, seed) == oracle.crc32c(content, seed)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_a_crc_continues(first: bytes, second: bytes) -> None:
    assert crc32c(second, crc32c(first)) == crc32c(first + second)


def test_the_check_value_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283
