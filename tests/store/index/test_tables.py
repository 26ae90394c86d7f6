"""The keys of the tables."""

from hypothesis import given
from hypothesis import strategies as st

from modelfs.store.index.tables import (
    external_data_key,
    number_key,
    number_of,
    numbers_of,
    pair_key,
    pair_of,
    prefix_end,
    tensor_key,
    triple_key,
)

U64 = st.integers(0, (1 << 64) - 1)


@given(left=st.tuples(U64, U64, U64), right=st.tuples(U64, U64, U64))
def test_keys_sort_as_numbers(left: tuple[int, int, int], right: tuple[int, int, int]) -> None:
    """Keys sort as their numbers, and decode to them."""
    assert (triple_key(*left) < triple_key(*right)) == (left < right)
    assert (pair_key(*left[:2]) < pair_key(*right[:2])) == (left[:2] < right[:2])
    assert (number_key(left[0]) < number_key(right[0])) == (left[0] < right[0])
    assert pair_of(pair_key(*left[:2])) == left[:2]
    assert number_of(triple_key(*left)) == left[0]


@given(prefix=st.binary(min_size=1, max_size=4), key=st.binary(max_size=6))
def test_a_prefix_has_an_end(prefix: bytes, key: bytes) -> None:
    """Every key with a prefix lies below the prefix's end; all greater keys lie above it."""
    if prefix.strip(b"\xff"):
        end = prefix_end(prefix)
        assert key.startswith(prefix) == (prefix <= key < end)


def test_keys_of_a_file_are_together() -> None:
    """A tensor's key has the file, the start, and the ordinal among tensors there."""
    assert tensor_key(1, 2, 3) == bytes([0] * 7 + [1] + [0] * 7 + [2] + [0] * 3 + [3])
    assert external_data_key(1, b"data", 2) == number_key(1) + b"data\0" + number_key(2)


def test_short_keys_have_no_number() -> None:
    """A key that is damaged and shorter than a number is passed over, and longer ones are not."""
    keys = [b"", b"\7", number_key(7)[1:], number_key(5), number_key(6) + b"name"]
    assert [*numbers_of(keys)] == [5, 6]
