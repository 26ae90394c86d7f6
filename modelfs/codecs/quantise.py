"""Quantise: floats mapped to integers of 8 bits, by a scale and a zero point.

The formula is ONNX's (operator QuantizeLinear), as onnxruntime applies it to weights
(`quantize_nparray` of its quantization/quant_utils.py): the value divided by the scale in single
precision, rounded to nearest, ties to even, plus the zero point, and saturated. There is no integer
for a NaN. Formulas that multiply with the inverse of the scale, as torch's, differ in a few values.

Example. By the scale 0.1 and the zero point 10, 0.31 becomes 13 in U8, and -5.0 becomes 0.

Payload::

    offset  size  field
    0       1     target      0: U8, 1: I8
    1       4     scale       f32, little-endian; finite and greater than zero
    5       4     zero point  i32, little-endian; one of the numbers of the target

Measured on one core, in bytes of content: 1.4 GB/s with numpy in blocks of 2^15 values, 0.4 in one
piece.
"""

import struct
from dataclasses import dataclass
from itertools import product
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelfs.codecs.base import Bytes

SOURCE: Final = "F32"
SOURCE_WIDTH: Final = 4
# By the number of the target.
TARGETS: Final = ("U8", "I8")

_PAYLOAD: Final = struct.Struct("<Bfi")
_BLOCK: Final = 1 << 15

Floats = NDArray[np.float32]
_Floating = type[np.float32] | type[np.float64]

_PRECISIONS: Final[tuple[_Floating, ...]] = (np.float64, np.float32)
_SINGLE: Final = np.finfo(np.float32)


class Parameters(NamedTuple):
    """The target, scale and zero point of a quantisation."""

    dtype: str  # one of TARGETS
    scale: float  # of single precision
    zero_point: int

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and the highest number of the target."""
        return (-128, 127) if self.dtype == "I8" else (0, 255)

    @property
    def are_sound(self) -> bool:
        lowest, highest = self.limits
        return 0 < self.scale < float("inf") and lowest <= self.zero_point <= highest


class Quantise:
    """The source, quantised."""

    def decode(self, payload: Bytes, size: int, source: Bytes) -> bytes:
        if len(payload) != _PAYLOAD.size or len(source) != size * SOURCE_WIDTH:
            raise ValueError(f"{size} bytes quantised from {len(source)}")
        target, scale, zero_point = _PAYLOAD.unpack(payload)
        if target >= len(TARGETS):
            raise ValueError(f"no such target: {target}")
        return quantised(
            np.frombuffer(source, "<f4"), Parameters(TARGETS[target], scale, zero_point)
        )


def encode(parameters: Parameters) -> bytes:
    """Return the payload for a quantisation. Whether it is sound is not checked."""
    dtype, scale, zero_point = parameters
    return _PAYLOAD.pack(TARGETS.index(dtype), scale, zero_point)


def quantised(values: Floats, parameters: Parameters) -> bytes:
    """Return values, quantised.

    Raises:
        ValueError: a value is NaN, or the parameters are not sound.
    """
    if not parameters.are_sound:
        raise ValueError(f"quantised by {parameters}")
    scale, zero_point = np.float32(parameters.scale), np.float32(parameters.zero_point)
    lowest, highest = map(np.float32, parameters.limits)
    numbers = np.empty(len(values), "i1" if parameters.dtype == "I8" else "u1")
    for start in range(0, len(values), _BLOCK):
        with np.errstate(all="ignore"):
            block = values[start : start + _BLOCK] / scale
        np.rint(block, out=block)
        block += zero_point
        np.clip(block, lowest, highest, out=block)
        if not block.max() <= highest:  # there is a NaN, whose cast may be any integer
            raise ValueError("NaN cannot be quantised")
        numbers[start : start + _BLOCK] = block
    return numbers.tobytes()


# -- which parameters a tensor was likely quantised by


class Extremes:
    """The lowest and the highest of values that go by, and of zero; NaN once one of them is."""

    def __init__(self) -> None:
        self.low: np.float32 = np.float32(0)
        self.high: np.float32 = np.float32(0)

    def feed(self, content: Bytes) -> None:
        """Count the next values; one that is cut off at the end is ignored."""
        values = np.frombuffer(content, "<f4", len(content) // SOURCE_WIDTH)
        self.low = np.minimum.reduce(values, initial=self.low)
        self.high = np.maximum.reduce(values, initial=self.high)


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way to choose parameters: the extremes are mapped to numbers of the target.

    Where it is symmetric, the one that is farther from zero counts as both.
    """

    dtype: str
    lowest: int
    highest: int
    symmetric: bool

    def parameters(self, extremes: Extremes, precision: _Floating) -> Parameters | None:
        """Return the parameters for these extremes; None if there is no scale of normal precision.

        The formula is that of `compute_scale_zp` in onnxruntime's quantization/quant_utils.py.
        Some of its versions subtract the extremes in double precision, and some in single.
        """
        low, high = precision(extremes.low), precision(extremes.high)
        if self.symmetric:
            high = max(-low, high)
            low = -high
        scale = float(high - low) / (self.highest - self.lowest)
        if not _SINGLE.tiny <= scale <= _SINGLE.max:
            return None
        middle = (self.lowest + self.highest) / 2
        zero_point = middle if self.symmetric else self.lowest - float(low) / scale
        return Parameters(self.dtype, float(np.float32(scale)), round(zero_point))


# Those of onnxruntime's `quantize_dynamic`: for embeddings and for matrices, and for matrices of
# either target with `reduce_range`, which leaves a bit unused.
SCHEMES: Final = (
    Scheme("U8", 0, 255, symmetric=False),
    Scheme("I8", -127, 127, symmetric=True),
    Scheme("I8", -64, 64, symmetric=True),
    Scheme("U8", 0, 127, symmetric=False),
)


def usual(extremes: Extremes, schemes: int = len(SCHEMES)) -> list[Parameters]:
    """Return the parameters of the commonest schemes for a tensor with such extremes."""
    parameters = [scheme.parameters(extremes, np.float64) for scheme in SCHEMES[:schemes]]
    return [sound for sound in parameters if sound is not None]


def candidates(extremes: Extremes, dtype: str) -> list[Parameters]:
    """Return all likely parameters by which a tensor with such extremes is quantised to `dtype`."""
    schemes = (scheme for scheme in SCHEMES if scheme.dtype == dtype)
    with np.errstate(over="ignore"):
        parameters = [
            scheme.parameters(extremes, precision)
            for scheme, precision in product(schemes, _PRECISIONS)
        ]
    return list(dict.fromkeys(sound for sound in parameters if sound is not None))
