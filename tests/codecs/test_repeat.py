"""A period is found where there is one, and none where there is almost one."""

import numpy as np
import pytest

from modelfs.codecs.elements import Element
from modelfs.codecs.repeat import Repeat, encode

NOISE = np.random.default_rng(1).bytes(5000)


@pytest.mark.parametrize("period", [4, 5, 63, 64, 65, 1536, 5000])
@pytest.mark.parametrize("zeros", [0, 3, 100, 2000])
def test_a_period_is_found(period: int, zeros: int) -> None:
    """Rows of any length that fits twice are found, although they begin with many zeros."""
    row = bytes(zeros) + NOISE[:period]
    stored = encode(row * 2 + row[: period // 2], Element(4))
    assert stored == len(row).to_bytes(4, "little") + row


@pytest.mark.parametrize("place", [0, 1, 2000, 4999, 5000, 9998, 9999])
def test_one_other_byte_is_no_period(place: int) -> None:
    """Content that is periodic but for one byte is left to other forms."""
    raw = bytearray(NOISE * 2)
    raw[place] ^= 1
    assert encode(bytes(raw), Element(4)) is None


def test_content_of_half_a_period_more_is_refused() -> None:
    """A row that does not fit twice is no repetition."""
    assert encode(NOISE + NOISE[:4000], Element(4)) is None


@pytest.mark.parametrize("size", [0, 1, 4999])
def test_less_than_a_period_is_refused(size: int) -> None:
    """A period longer than the content belongs to other content."""
    stored = encode(NOISE * 2, Element(4))
    assert stored is not None
    with pytest.raises(ValueError, match="5000"):
        Repeat().decode(stored, size)


def test_a_row_of_three_bytes() -> None:
    """The example of the module: a period of 3."""
    stored = encode(bytes([1, 2, 3, 1, 2, 3, 1]), Element(1))
    assert stored == bytes([3, 0, 0, 0, 1, 2, 3])
