"""Small numbers side by side in bytes."""

import numpy as np
import pytest

from modelfs.codecs.bits import pack_bits


@pytest.mark.parametrize(
    ("bits", "numbers", "packed"),
    [
        (1, [1, 0, 0, 0, 0, 0, 0, 0, 1], "0101"),
        (2, [1, 2, 3, 0, 1], "3901"),
        (4, [1, 2, 15], "210f"),
        (8, [1, 2, 255], "0102ff"),
        (4, [], ""),
    ],
)
def test_first_number_has_the_lowest_bits(bits: int, numbers: list[int], packed: str) -> None:
    """The numbers fill each byte from its lowest bit on; the last byte is padded with zeros."""
    assert pack_bits(np.array(numbers, np.uint8), bits).hex() == packed
