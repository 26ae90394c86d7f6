"""Samples: values of a tensor at positions that are the same in all tensors.

An *octave* is the elements from 2^i up to 2^(i+1). A tensor is sampled in the octave it ends in and
in the three before that, which is 15 in 16 of its elements. The positions in an octave are the same
for all tensors: those of one length have all samples in common, and those of which one is the
other's beginning nearly all. The positions are a Weyl sequence (multiples of the golden ratio:
Knuth, TAOCP vol. 3, section 6.4, Fibonacci hashing), whose every beginning is spread evenly; so few
samples and many have the few in common.

Example. A tensor of 20 elements ends in the octave 16 to 31. So it is sampled there up to 19, and
in 8 to 15, 4 to 7 and 2 to 3. One of 24 elements has the samples up to 19 at the same positions.

Stored form of samples::

    type        field
    u8          number of samples of each octave, at most 128
    bytes each  values, little-endian, as many as lie in the tensor: the last octave's first
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from modelfs.codecs.elements import element_of

OCTAVES: Final = 4
PER_OCTAVE: Final = 128
COUNT_MIN: Final = 1 << OCTAVES
_GOLDEN: Final = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio

Values = NDArray[Any]  # unsigned integers of the elements' width
Positions = NDArray[np.int64]
Conversion = Callable[[Values], Values]


@lru_cache(maxsize=256)
def positions(count: int, per_octave: int = PER_OCTAVE) -> Positions:
    """Return where tensors of `count` elements, at least COUNT_MIN, are sampled."""
    top = count.bit_length() - 1
    octaves: list[Positions] = []
    for octave in range(top, top - OCTAVES, -1):
        start = octave * PER_OCTAVE + 1
        steps = np.arange(start, start + per_octave, dtype=np.uint64) * np.uint64(_GOLDEN)
        places = (steps >> np.uint64(64 - octave)) + np.uint64(1 << octave)
        octaves.append(places.astype(np.int64))
    octaves[0] = octaves[0][octaves[0] < count]
    picked = np.concatenate(octaves)
    picked.flags.writeable = False
    return picked


@dataclass(frozen=True, slots=True)
class Samples:
    """Some values of a tensor of `count` elements: `per_octave` of each octave."""

    dtype: str
    count: int
    per_octave: int
    values: bytes

    @classmethod
    def thinned(cls, dtype: str, count: int, values: Values, per_octave: int) -> Self:
        """Return some of the values at all `positions` of a tensor."""
        top = len(values) - PER_OCTAVE * (OCTAVES - 1)  # of the octave it ends in
        lower = values[top:].reshape(-1, PER_OCTAVE)[:, :per_octave].reshape(-1)
        ending = len(positions(count, per_octave)) - len(lower)
        kept = np.concatenate([values[:ending], lower])
        return cls(dtype, count, per_octave, kept.tobytes())

    def to_bytes(self) -> bytes:
        return bytes([self.per_octave]) + self.values

    @classmethod
    def from_bytes(cls, dtype: str, count: int, stored: bytes) -> Self:
        """Decode samples of a tensor of that dtype and count.

        Raises:
            ValueError: they are those of another tensor.
        """
        if not stored or not 0 < stored[0] <= PER_OCTAVE or count < COUNT_MIN:
            raise ValueError(f"samples of {len(stored)} bytes for {count} elements")
        expected = len(positions(count, stored[0])) * element_of(dtype).width
        if len(stored) != 1 + expected:
            raise ValueError(f"samples of {len(stored)} bytes, not {1 + expected}")
        return cls(dtype, count, stored[0], stored[1:])

    @property
    def array(self) -> Values:
        return np.frombuffer(self.values, f"<u{element_of(self.dtype).width}")


# -- values as numbers


def ordinals(values: Values, dtype: str) -> NDArray[np.int64]:
    """Map values to integers in the same order, neighbours one apart (for U64, 2^63 lower)."""
    element = element_of(dtype)
    signed = values.view(f"<i{element.width}").astype(np.int64)
    if element.is_float:
        magnitude = signed & np.int64((1 << (8 * element.width - 1)) - 1)
        return np.where(signed < 0, -magnitude, magnitude)
    if dtype.startswith("I"):
        return signed
    if dtype == "U64":
        return signed ^ np.int64(-(1 << 63))
    return values.astype(np.int64)


def _to_bf16(values: Values) -> Values:
    # To nearest, ties to even, as IEEE 754 has it; a NaN keeps its highest bits.
    rounded = (values + (0x7FFF + ((values >> 16) & 1))) >> 16
    nan = (values & 0x7FFFFFFF) > 0x7F800000
    return np.where(nan, values >> 16 | 0x40, rounded).astype("<u2")


def _converted(source: str, target: str) -> Conversion:
    def convert(values: Values) -> Values:
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return values.view(f"<f{source}").astype(f"<f{target}").view(f"<u{target}")

    return convert


# The dtypes to which floats are rounded in practice, with both conversions.
CASTS: Final[dict[str, dict[str, tuple[Conversion, Conversion]]]] = {
    "F64": {"F32": (_converted("8", "4"), _converted("4", "8"))},
    "F32": {
        "BF16": (_to_bf16, lambda values: values.astype("<u4") << 16),
        "F16": (_converted("4", "2"), _converted("2", "4")),
    },
}


# -- the cost of values


def own_bits(values: Values, dtype: str) -> float:
    """Return about how many bits per element a tensor of such values takes."""
    element = element_of(dtype)
    if not element.is_float:
        placed = ordinals(values, dtype) if dtype.startswith("I") else values
        return min(coded_bits(np.abs(placed.astype(np.float64))), 8.0 * element.width)
    mantissa = 8 * element.width - 1 - element.exponent
    heads = (values >> mantissa).astype(np.int64)
    used = int(np.bitwise_or.reduce(values)) & ((1 << mantissa) - 1)
    zeros = mantissa if not used else (used & -used).bit_length() - 1
    _, counts = np.unique(heads, return_counts=True)
    return _entropy(counts) + mantissa - zeros


def distance(left: Samples, right: Samples) -> float:
    """Return about how many bits per element the difference of two tensors takes.

    Elements at the same position are compared. Infinite if there is no sample in common.
    """
    left_values, right_values, weights = _in_common(left, right)
    if not len(left_values):
        return float("inf")
    return coded_bits(ulps_apart(left_values, right_values, left.dtype), weights)


def ulps_apart(left: Values, right: Values, dtype: str) -> NDArray[np.float64]:
    """Return by how many units in the last place values differ."""
    first, second = ordinals(left, dtype), ordinals(right, dtype)
    # Modulo 2^64, the difference of the larger and the smaller always fits.
    a, b = first.view(np.uint64), second.view(np.uint64)
    return np.where(first > second, a - b, b - a).astype(np.float64)


def _in_common(left: Samples, right: Samples) -> tuple[Values, Values, NDArray[np.float64]]:
    """Return the values that both have samples of, and how many elements each stands for."""
    picked = positions(left.count, left.per_octave)
    left_values, right_values = left.array, right.array
    if (left.count, left.per_octave) != (right.count, right.per_octave):
        other = positions(right.count, right.per_octave)
        picked, left_places, right_places = np.intersect1d(picked, other, return_indices=True)
        left_values, right_values = left_values[left_places], right_values[right_places]
    # An octave's samples stand for its elements, those of the lowest for all before it as well.
    octaves = np.frexp(picked.astype(np.float64))[1]
    counts = np.bincount(octaves)
    elements = np.exp2(np.arange(len(counts)) - 1.0)
    if len(picked):
        elements[octaves.max()] = min(left.count, right.count) - elements[octaves.max()]
        elements[octaves.min()] += np.exp2(octaves.min() - 1.0)
    return left_values, right_values, (elements / np.maximum(counts, 1))[octaves]


def coded_bits(
    magnitudes: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> float:
    """Return how many bits signed numbers take on average in Elias's gamma code.

    Its lengths count at their entropy, which byte planes grouped by exponent come close to.
    """
    lengths = np.frexp(magnitudes)[1]  # 0 for 0; otherwise as many bits, one of them for the sign
    return _entropy(np.bincount(lengths, weights)) + float(np.average(lengths, weights=weights))


def _entropy(counts: NDArray[Any]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())
