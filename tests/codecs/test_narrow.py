"""Numbers become narrower only where every bit comes back, on every machine."""

import numpy as np
import pytest

from modelfs.codecs.elements import element_of
from modelfs.codecs.narrow import Narrow, encode

F32 = element_of("F32")
F64 = element_of("F64")

HALVES = np.arange(1 << 16, dtype="<u2")
FINITE_HALVES = HALVES[(HALVES & 0x7FFF) <= 0x7C00].view("<f2")  # infinities too, no NaN


def test_every_bf16_is_narrowed() -> None:
    """All F32 whose lower half is zero come back: NaNs of any payload, -0 and subnormals too."""
    raw = (HALVES.astype("<u4") << 16).tobytes()
    stored = encode(raw, F32)
    assert stored is not None
    assert Narrow().decode(stored, len(raw)) == raw


def test_every_f16_but_nan_is_narrowed() -> None:
    """All F32 that are F16 come back: infinities, -0 and F16's subnormals too."""
    raw = FINITE_HALVES.astype("<f4").tobytes()
    stored = encode(raw, F32)
    assert stored is not None
    assert stored[0] == 1
    assert Narrow().decode(stored, len(raw)) == raw


@pytest.mark.parametrize(
    ("dtype", "word"),
    [
        ("F32", 0x7FC02000),  # a quiet NaN that F16 could hold
        ("F32", 0x7F802000),  # a signalling one
        ("F32", 0x3F801000),  # one bit more than F16 has
        ("F32", 0x47800000 + 0x2000),  # beyond F16's range
        ("F32", 0x33000000 - 0x2000),  # below F16's subnormals
        ("F64", 0x7FF8000020000000),
        ("F64", 0x7FF0000020000000),
        ("F64", 0x3FF0000010000000),
        ("F64", 0x36A0000000000000),  # an F32 subnormal, which a processor may flush
        ("F64", 0x0000000000000001),
    ],
)
def test_what_might_not_come_back_is_not_narrowed(dtype: str, word: int) -> None:
    """One number among many that a narrower float does not hold, or not everywhere, forbids it."""
    element = element_of(dtype)
    numbers = FINITE_HALVES.astype(f"<f{element.width}")
    assert encode(numbers.tobytes(), element) is not None
    numbers.view(f"<u{element.width}")[5000] = word
    assert encode(numbers.tobytes(), element) is None


@pytest.mark.parametrize(
    ("extremes", "width"),
    [
        ([0, 255], 1),
        ([-128, 127], 1),
        ([-1, 128], 2),
        ([0, 65535], 2),
        ([-32769, 0], 4),
        ([0, 2**32 - 1], 4),
    ],
)
def test_integers_take_the_narrowest_type(extremes: list[int], width: int) -> None:
    """The extremes decide, by sign and size."""
    raw = np.array(extremes * 3000, "<i8").tobytes()
    stored = encode(raw, element_of("I64"))
    assert stored is not None
    assert stored[1] == width
    assert Narrow().decode(stored, len(raw)) == raw


@pytest.mark.parametrize("extremes", [[-1, 2**32 - 1], [0, 2**32], [-(2**31) - 1, 0]])
def test_wide_integers_stay(extremes: list[int]) -> None:
    """Integers that need their type are left to it."""
    assert encode(np.array(extremes * 3000, "<i8").tobytes(), element_of("I64")) is None


def test_position_ids() -> None:
    """The example of the module: ids in I64 take one plane of a byte each."""
    stored = encode(np.arange(4, dtype="<i8").tobytes(), element_of("I64"))
    assert stored is not None
    assert stored[0] == 9
    assert stored.endswith(bytes([0, 1, 2, 3]))
