"""Casts round by IEEE 754, and invalid payloads are refused."""

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelfs.codecs.cast import Cast, encode
from modelfs.codecs.elements import element_of

CAST = Cast()


def cast(source: bytes, dtype: str, target: str) -> bytes:
    """Return a source cast."""
    wide, narrow = element_of(dtype), element_of(target)
    return CAST.decode(encode(wide, narrow), len(source) // wide.width * narrow.width, source)


@pytest.mark.parametrize(
    ("single", "bfloat"),
    [
        (0x3F80_8000, 0x3F80),  # ties to even, down
        (0x3F81_8000, 0x3F82),  # and up
        (0x3F80_8001, 0x3F81),
        (0xBF80_7FFF, 0xBF80),
        (0x7F7F_FFFF, 0x7F80),  # to infinity
        (0xFF80_0000, 0xFF80),
        (0x0000_8001, 0x0001),  # subnormal
        (0x8000_0000, 0x8000),
        (0x7F80_0001, 0x7FC0),  # NaN
        (0xFFFF_FFFF, 0x7FC0),
    ],
)
def test_bfloats_are_rounded_to_nearest(single: int, bfloat: int) -> None:
    """Every case of rounding F32 to BF16."""
    source = single.to_bytes(4, "little")
    assert cast(source, "F32", "BF16") == bfloat.to_bytes(2, "little")


@pytest.mark.parametrize(
    ("single", "half"),
    [
        (0x3F80_1000, 0x3C00),  # ties to even, down
        (0x3F80_3000, 0x3C02),  # and up
        (0x477F_EFFF, 0x7BFF),  # 65519.996: the largest that does not overflow
        (0x477F_F000, 0x7C00),
        (0xFF80_0000, 0xFC00),
        (0x3300_0000, 0x0000),  # 2^-25: half the smallest
        (0x3300_0001, 0x0001),
        (0xB3C0_0000, 0x8002),  # 1.5 times the smallest
        (0x387F_FFFF, 0x0400),  # rounds to the smallest that is normal
        (0x0000_0001, 0x0000),
        (0x7F80_0001, 0x7E00),  # NaN
        (0xFFC0_1234, 0xFE00),
    ],
)
def test_halves_are_rounded_to_nearest(single: int, half: int) -> None:
    """Every case of rounding F32 to F16."""
    assert cast(single.to_bytes(4, "little"), "F32", "F16") == half.to_bytes(2, "little")


@pytest.mark.parametrize(
    ("double", "single"),
    [
        (0x3FF0_0000_1000_0000, 0x3F80_0000),  # ties to even, down
        (0x3FF0_0000_3000_0000, 0x3F80_0002),  # and up
        (0x47EF_FFFF_EFFF_FFFF, 0x7F7F_FFFF),
        (0x47EF_FFFF_F000_0000, 0x7F80_0000),
        (0x3690_0000_0000_0000, 0x0000_0000),  # 2^-150: half the smallest
        (0xB690_0000_0000_0001, 0x8000_0001),
        (0x380F_FFFF_FFFF_FFFF, 0x0080_0000),  # rounds to the smallest that is normal
        (0x0000_0000_0000_0001, 0x0000_0000),
        (0xFFF0_0000_0000_0001, 0xFFC0_0000),  # NaN
        (0x7FF8_0000_2000_0000, 0x7FC0_0001),
    ],
)
def test_singles_are_rounded_to_nearest(double: int, single: int) -> None:
    """Every case of rounding F64 to F32."""
    assert cast(double.to_bytes(8, "little"), "F64", "F32") == single.to_bytes(4, "little")


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_what_was_widened_narrows_to_itself(dtype: str) -> None:
    """Every word of 2 bytes comes back, NaN apart."""
    words = np.arange(1 << 16, dtype="<u2")
    infinite = 0x7F80 if dtype == "BF16" else 0x7C00
    words = words[(words & 0x7FFF) <= infinite]
    assert cast(cast(words.tobytes(), dtype, "F32"), "F32", dtype) == words.tobytes()


def test_halves_are_widened_as_numpy_does() -> None:
    """Every number but NaN comes back."""
    words = np.arange(1 << 16, dtype="<u2")
    words = words[(words & 0x7FFF) <= 0x7C00]
    expected = words.view("<f2").astype("<f4").tobytes()
    assert cast(words.tobytes(), "F16", "F32") == expected


@given(
    payload=st.binary(max_size=3) | st.sampled_from([bytes([0x84, 0x82]), bytes([0x82, 0x84])]),
    size=st.integers(0, 64),
    source=st.binary(max_size=64),
)
def test_junk_is_refused(payload: bytes, size: int, source: bytes) -> None:
    """Any bytes are a cast of that size or are refused."""
    with contextlib.suppress(ValueError):
        assert len(CAST.decode(payload, size, source)) == size


@pytest.mark.parametrize(("source", "size"), [(8, 6), (8, 2), (7, 2), (6, 4), (0, 2)])
def test_another_size_is_refused(source: int, size: int) -> None:
    """A source of another size is refused."""
    payload = encode(element_of("F32"), element_of("BF16"))
    with pytest.raises(ValueError, match="cast from"):
        CAST.decode(payload, size, bytes(source))


def test_ties_go_to_even() -> None:
    """The example of the module: of two words halfway between numbers, both get the even one."""
    payload = encode(element_of("F32"), element_of("BF16"))
    assert payload.hex() == "8482"
    words = np.array([0x3F808000, 0x3F818000], "<u4").tobytes()
    expected = np.array([0x3F80, 0x3F82], "<u2").tobytes()
    assert Cast().decode(payload, 4, words) == expected
