"""Checksums of rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.errors import CorruptIndex
from modelfs.store.index.row_checksum import CHECKSUM_SIZE, checked, with_checksum
from modelfs.store.index.tables import Table

TABLES = st.sampled_from(Table)
KEYS = st.binary(min_size=1, max_size=40)
VALUES = st.binary(max_size=100)


@given(table=TABLES, key=KEYS, value=VALUES)
def test_a_row_comes_back(table: Table, key: bytes, value: bytes) -> None:
    """The value of a row survives, with 4 bytes more in LMDB."""
    stored = with_checksum(table, key, value)
    assert len(stored) == len(value) + CHECKSUM_SIZE
    assert checked(table, key, stored) == value


@given(table=TABLES, key=KEYS, value=VALUES, data=st.data())
def test_every_flipped_bit_is_found(
    table: Table, key: bytes, value: bytes, data: st.DataObject
) -> None:
    """A row with another bit in its key, value or checksum is damaged."""
    row = bytearray(key + with_checksum(table, key, value))
    bit = data.draw(st.integers(0, 8 * len(row) - 1))
    row[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptIndex, match="does not match its checksum"):
        checked(table, bytes(row[: len(key)]), bytes(row[len(key) :]))


@given(table=TABLES, other=TABLES, key=KEYS, value=VALUES)
def test_a_row_of_another_table_is_found(
    table: Table, other: Table, key: bytes, value: bytes
) -> None:
    """The same row is damaged in every other table."""
    stored = with_checksum(table, key, value)
    if table is other:
        assert checked(other, key, stored) == value
    else:
        with pytest.raises(CorruptIndex):
            checked(other, key, stored)


@pytest.mark.parametrize("size", range(CHECKSUM_SIZE))
def test_a_row_without_room_for_a_checksum_is_found(size: int) -> None:
    """A value shorter than a checksum is damaged."""
    with pytest.raises(CorruptIndex):
        checked(Table.META, b"key", bytes(size))
