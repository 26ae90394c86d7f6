"""Every dtype a tensor can have is known by width, and floats by their exponent."""

import pytest

from modelfs.codecs.elements import PLAIN, WIDTHS, element_of
from modelfs.formats.dtypes import BITS


@pytest.mark.parametrize("dtype", BITS)
def test_an_element_is_as_wide_as_its_dtype(dtype: str) -> None:
    """A number is as wide as its dtype, half as wide in a complex one, a byte if it is smaller."""
    bits = BITS[dtype] // 2 if dtype.startswith("C") else BITS[dtype]
    element = element_of(dtype)
    assert element.width in WIDTHS
    assert 8 * element.width == max(bits, 8)


@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [("F64", 11), ("F32", 8), ("C64", 8), ("BF16", 8), ("F16", 5), ("F8_E5M2", 5), ("I64", 0)],
)
def test_floats_have_an_exponent(dtype: str, exponent: int) -> None:
    """IEEE 754's widths, and those in the names of the narrow types."""
    assert element_of(dtype).exponent == exponent
    assert element_of(dtype).is_float == bool(exponent)


def test_an_unknown_dtype_is_plain_bytes() -> None:
    """A dtype of tomorrow is no error."""
    assert element_of("F7_E9M9") == PLAIN
