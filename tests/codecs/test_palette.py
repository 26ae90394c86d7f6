"""How many values fit, and how their indices are stored."""

import numpy as np
import pytest

from modelfs.codecs.elements import Element
from modelfs.codecs.palette import Palette, encode


@pytest.mark.parametrize(
    ("values", "width", "bits"),
    [(2, 1, 1), (16, 1, 4), (3, 2, 2), (4, 4, 2), (5, 8, 4), (17, 2, 8), (256, 4, 8)],
)
def test_indices_take_the_fewest_bits(values: int, width: int, bits: int) -> None:
    """Any number of values has indices of 1, 2, 4 or 8 bits, and comes back."""
    numbers = np.random.default_rng(1).permutation(np.arange(3001) % values)
    raw = (numbers + 7).astype(f"<u{width}").tobytes()
    stored = encode(raw, Element(width))
    assert stored is not None
    assert stored[:3] == bytes([width, bits, values - 1])
    assert Palette().decode(stored, len(raw)) == raw


@pytest.mark.parametrize(("values", "width"), [(17, 1), (257, 2), (257, 4), (257, 8)])
def test_too_many_values_have_no_palette(values: int, width: int) -> None:
    """With one value too many, even at the end, there is no palette."""
    numbers = np.arange(9000) % (values - 1)
    numbers[8999] = values
    assert encode(numbers.astype(f"<u{width}").tobytes(), Element(width)) is None


def test_an_index_beyond_the_palette_is_refused() -> None:
    """A stored index beyond the values is refused."""
    stored = encode(bytes([1, 2, 3]) * 5, Element(1))
    assert stored is not None
    assert stored[-1] != 0xFF
    with pytest.raises(ValueError, match="index 3 into a palette of 3"):
        Palette().decode(stored[:-1] + b"\xff", 15)


def test_indices_of_one_bit() -> None:
    """The example of the module: two values, and the indices 0 1 1 0 0 in one byte."""
    stored = encode(np.array([7, 9, 9, 7, 7], "<u2").tobytes(), Element(2))
    assert stored is not None
    assert stored[:7] == bytes([2, 1, 1, 7, 0, 9, 0])
    assert stored.endswith(b"\x06")
