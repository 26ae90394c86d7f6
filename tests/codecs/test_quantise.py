"""Quantising gives the numbers of ONNX runtime, and refuses invalid payloads."""

import contextlib
import math
import struct
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto
from onnxruntime.quantization.quant_utils import quantize_data  # type: ignore[import-untyped]

from modelfs.codecs.quantise import (
    SCHEMES,
    Extremes,
    Parameters,
    Quantise,
    candidates,
    encode,
    quantised,
    usual,
)
from tests.support.related_tensors import weights

QUANTISE = Quantise()
ONNX: Final = {"U8": TensorProto.UINT8, "I8": TensorProto.INT8}

Floats = NDArray[np.float32]


def extremes_of(values: Floats) -> Extremes:
    extremes = Extremes()
    extremes.feed(values.tobytes())
    return extremes


@pytest.mark.parametrize(
    ("value", "unsigned", "signed"),
    [
        (0.0, 10, 10),
        (0.25, 10, 10),  # half a step: ties to even, before the zero point is added
        (0.75, 12, 12),
        (-0.25, 10, 10),
        (-0.75, 8, 8),
        (1.26, 13, 13),
        (-5.0, 0, 0),
        (-5.5, 0, -1),  # saturates
        (-70.0, 0, -128),
        (58.5, 127, 127),
        (59.0, 128, 127),
        (123.0, 255, 127),
        (3e38, 255, 127),
        (math.inf, 255, 127),
        (-math.inf, 0, -128),
    ],
)
def test_values_are_rounded_and_saturated(value: float, unsigned: int, signed: int) -> None:
    """Every case of a scale of a half and a zero point of 10."""
    source = struct.pack("<f", value)
    for dtype, expected in (("U8", unsigned), ("I8", signed)):
        number = QUANTISE.decode(encode(Parameters(dtype, 0.5, 10)), 1, source)
        assert int.from_bytes(number, signed=dtype == "I8") == expected


@pytest.mark.parametrize(
    ("scheme", "symmetric", "reduced"),
    [(0, False, False), (1, True, False), (2, True, True), (3, False, True)],
)
def test_onnxruntime_is_guessed(scheme: int, *, symmetric: bool, reduced: bool) -> None:
    """The extremes alone lead to the scale and zero point that give the same numbers."""
    kind = ONNX[SCHEMES[scheme].dtype]
    for seed in range(20):
        values = weights(20_000, seed=seed)
        zero_point, scale, numbers = quantize_data(values, kind, symmetric, reduced)
        parameters = usual(extremes_of(values))[scheme]
        assert parameters[1:] == (float(scale), int(zero_point))
        assert quantised(values, parameters) == numbers.tobytes()


def test_earlier_versions_are_tried_next() -> None:
    """Extremes whose difference is rounded to single precision may give another scale."""
    others = 0
    for seed in range(20):
        extremes = extremes_of(weights(1000, seed=seed))
        scale = float(np.float32(float(extremes.high - extremes.low) / 255))
        likely = candidates(extremes, "U8")
        assert likely[0] == usual(extremes)[0]
        assert scale in {likely[0].scale, likely[1].scale}
        others += scale != likely[0].scale
    assert others > 0


def test_long_tensors_are_quantised_alike() -> None:
    """Quantising in blocks gives the same numbers as in one piece, for any length."""
    values = weights(100_001)
    for dtype, low, high in (("U8", 0, 255), ("I8", -128, 127)):
        parameters = Parameters(dtype, float(np.float32(0.0013)), 7)
        whole = np.clip(np.rint(values / np.float32(0.0013)) + 7, low, high)
        for count in (0, 1, 1 << 15, (1 << 15) + 1, 100_001):
            expected = whole[:count].astype("i2").astype("u1").tobytes()
            assert QUANTISE.decode(encode(parameters), count, values[:count].tobytes()) == expected


# -- refused payloads and sources


@pytest.mark.parametrize("word", [0x7FC0_0000, 0xFFFF_FFFF, 0x7F80_0001])
def test_what_is_no_number_is_refused(word: int) -> None:
    """NaN is refused, because the integer for it would depend on the processor."""
    source = bytes(4 << 15) + word.to_bytes(4, "little") + bytes(40)
    payload = encode(Parameters("U8", 1.0, 0))
    with pytest.raises(ValueError, match="NaN"):
        QUANTISE.decode(payload, len(source) // 4, source)


@pytest.mark.parametrize(
    ("target", "scale", "zero_point"),
    [
        (2, 1.0, 0),
        (0, 0.0, 0),
        (0, -0.0, 0),
        (0, -1.0, 0),
        (1, math.inf, 0),
        (1, math.nan, 0),
        (0, 1.0, -1),
        (0, 1.0, 256),
        (1, 1.0, -129),
        (1, 1.0, 128),
    ],
)
def test_other_parameters_are_refused(target: int, scale: float, zero_point: int) -> None:
    """An unknown target, an unusable scale and a zero point out of range are refused."""
    with pytest.raises(ValueError, match=r"target|quantised by"):
        QUANTISE.decode(struct.pack("<Bfi", target, scale, zero_point), 2, bytes(8))


@pytest.mark.parametrize(("source", "size"), [(8, 3), (8, 1), (7, 2), (9, 2), (0, 1)])
def test_another_size_is_refused(source: int, size: int) -> None:
    """A source of another size is refused, and so is a payload of another size."""
    payload = encode(Parameters("I8", 1.0, 0))
    with pytest.raises(ValueError, match="quantised from"):
        QUANTISE.decode(payload, size, bytes(source))
    for wrong in (b"", payload[:-1], payload + b"\0"):
        with pytest.raises(ValueError, match="quantised from"):
            QUANTISE.decode(wrong, 2, bytes(8))


@given(
    payload=st.binary(min_size=9, max_size=9)
    | st.builds(
        struct.Struct("<Bfi").pack, st.integers(0, 2), st.floats(width=32), st.integers(-200, 300)
    ),
    source=st.binary(max_size=64).map(lambda content: content[len(content) % 4 :]),
)
def test_junk_is_refused(payload: bytes, source: bytes) -> None:
    """Any bytes are a quantisation or are refused, and no warning is given."""
    with contextlib.suppress(ValueError):
        assert len(QUANTISE.decode(payload, len(source) // 4, source)) == len(source) // 4


# -- extremes


@given(cuts=st.lists(st.integers(0, 1000), max_size=5).map(sorted))
def test_extremes_of_parts_are_those_of_the_whole(cuts: list[int]) -> None:
    """The extremes do not depend on the pieces in which values are fed, and include zero."""
    values = weights(1000)
    for moved in (values, values + 9, values - 9):
        extremes = Extremes()
        for part in np.split(moved.astype(np.float32), cuts):
            extremes.feed(part.tobytes())
        assert (extremes.low, extremes.high) == (min(0, moved.min()), max(0, moved.max()))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-43])
def test_what_nobody_quantises_has_no_parameters(value: float) -> None:
    """There are no candidates if a value is NaN or infinite, or if all are nearly zero."""
    values = np.zeros(100, np.float32)
    values[50] = value
    extremes = extremes_of(values)
    extremes.feed(bytes(400))
    assert usual(extremes) == candidates(extremes, "U8") == candidates(extremes, "I8") == []


def test_a_range_beyond_single_precision_is_no_error() -> None:
    """If the difference of the extremes overflows in single precision, double is tried alone."""
    extremes = extremes_of(np.array([-3e38, 3e38], np.float32))
    for dtype in ("U8", "I8"):
        assert all(parameters.are_sound for parameters in candidates(extremes, dtype))
    assert len(usual(extremes)) == len(SCHEMES)


def test_rounding_and_saturation() -> None:
    """The example of the module: by scale 0.1 and zero point 10, 0.31 is 13 and -5 is 0."""
    values = np.array([0.31, -5.0], np.float32)
    assert quantised(values, Parameters("U8", 0.1, 10)) == bytes([13, 0])
