"""Bytes that are stored as they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs.raw import Raw


@given(st.binary(max_size=100))
def test_nothing_is_copied(raw: bytes) -> None:
    """Both ways, the bytes are the same object: no time and no memory is spent on them."""
    assert Raw().encode(raw) is raw
    assert Raw().decode(raw, len(raw)) is raw


@given(st.binary(max_size=100), st.integers(-1, 200))
def test_another_size_is_refused(stored: bytes, size: int) -> None:
    """Bytes of another length than the chunk's are refused, and both lengths are named."""
    if size != len(stored):
        with pytest.raises(ValueError, match=rf"^{len(stored)} bytes .* chunk of {size}$"):
            Raw().decode(stored, size)
