"""A tensor's sketch: a few hundred bytes, by which similar tensors are found.

The content is read once, in order. A sketch has three parts:

*Samples*: values at the same positions in all tensors (`samples`). The hash of all of them is the
tensor's *exact key*. The hash of the samples rounded to another dtype is the exact key of the cast,
and that of the samples quantised in the usual ways, by the lowest and the highest of all values, is
the exact key of the quantised tensor. The values that are the samples of the transposed tensor hash
to its exact key.

*Bands*: bits, each the comparison of two sampled values, in groups as usual for locality-sensitive
hashing. This is the winner-take-all hash of Yagnik et al., "The Power of Comparative Reasoning"
(ICCV 2011). If a fine-tune moves weights by a part `t` of their spread, a bit flips with
probability atan(t) / pi at any scale. So with t = 0.03 five in six bands survive, and of unrelated
tensors one in a million collides. Comparisons need no exponents: integers have bands, too.

*Rows*: the rows with the smallest hashes (`rows`), for tensors with common rows at other places
than their start.

Example. Of a base in F32, its cast to BF16 and a fine-tune of it, sketches have in common::

    base and cast       the exact key of the cast: among `exact` of the base, first of the cast's
    base and fine-tune  most bands; the distance of their samples is about the bits of a delta
    cast and fine-tune  nothing: bands are those of one dtype
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray

from modelfs.codecs import quantise
from modelfs.codecs.elements import element_of
from modelfs.sketches.rows import Rows
from modelfs.sketches.samples import (
    CASTS,
    PER_OCTAVE,
    Positions,
    Samples,
    Values,
    distance,
    ordinals,
    own_bits,
    positions,
)

# Tensors below this have no sketch: a row of the index would cost a tenth of them.
SIZE_MIN: Final = 1 << 10
# A pair of values for each bit: as many as fit into 128 pairs.
BITS: Final = 20
BANDS: Final = 6
BANDS_OF_HALF: Final = 2

Ordinals = NDArray[np.int64]


class Limits(NamedTuple):
    """The numbers of parts of a sketch that are worth their room in the index."""

    bands: int
    samples: int  # of each octave
    rows: int
    schemes: int  # by which it is quantised


# Sizes in bytes, and the limits of tensors below each size.
LIMITS: Final = (
    (16 << 10, Limits(0, 0, 2, 0)),
    (128 << 10, Limits(2, 8, 2, 2)),
    (1 << 20, Limits(4, 16, 6, 4)),
    (4 << 20, Limits(8, 24, 12, 4)),
    (1 << 64, Limits(8, 24, 24, 4)),
)


@dataclass(frozen=True, slots=True)
class Sketch:
    """The sketch of a tensor. All keys are 64-bit hashes.

    Attributes:
        dtype: of the tensor, as in its row.
        count: of scalars: a complex number is two, and where dtypes are packed bytes are counted.
        exact: dtype and exact key of this tensor itself, then of its casts to narrower dtypes
            and of its usual quantisations; none if all samples are the same.
        widened: the narrower dtypes whose every sampled value, widened, is this tensor's.
        transposed: the exact key of this tensor with its last two axes swapped; None without them.
        bands: those of the tensor's longest power-of-two prefix, then those of half of it.
        samples: some of the sampled values, for `samples.distance`; None in small tensors.
        rows: key and byte offset in the tensor of the rows with the smallest hashes, smallest
            first; of a vector, of its windows. All are worth a look-up.
        listed: how many of the rows are worth their room in the index.
        bits: about how many bits per scalar the tensor takes by itself, in byte planes.
    """

    dtype: str
    count: int
    exact: tuple[tuple[str, int], ...]
    widened: tuple[str, ...]
    transposed: int | None
    bands: tuple[int, ...]
    samples: Samples | None
    rows: tuple[tuple[int, int], ...]
    listed: int
    bits: float

    def bits_from(self, source: Samples) -> float:
        """Return about how many bits per scalar the tensor takes as a delta to a source.

        Elements beyond the end of a shorter source count as they do without it.

        Args:
            source: the samples of a tensor of the same dtype.
        """
        if self.samples is None:
            return self.bits
        share = min(source.count, self.count) / self.count
        return share * distance(self.samples, source) + (1 - share) * self.bits


class Sampler:
    """Makes the sketch of one tensor from its content, which is fed in order."""

    def __init__(self, dtype: str, shape: tuple[int, ...], size: int) -> None:
        """Begin the sketch of a tensor of `size` bytes; a shape of another size is ignored."""
        self._dtype = dtype
        self._size = size
        self._width = element_of(dtype).width
        self._count = size // self._width
        self._rows = Rows(shape, self._width, size)
        own = positions(self._count) if size >= SIZE_MIN else np.empty(0, np.int64)
        self._own_count = len(own)
        # The transposed tensor's positions follow those of this one.
        picked = np.concatenate([own, _swapped(own, shape, self._count)])
        self._order = np.argsort(picked, kind="stable")
        self._picked = picked[self._order]
        self._values: Values = np.empty(len(picked), f"<u{self._width}")
        self._extremes = quantise.Extremes() if dtype == quantise.SOURCE else None
        self._at = 0
        self._partial = b""  # the beginning of an element that is not complete

    def feed(self, offset: int, content: bytes) -> None:
        """Read the next bytes of the tensor; cuts may lie anywhere.

        `offset` is relative to the tensor's start. Bytes behind a gap are ignored.
        """
        if offset != self._at or self._size < SIZE_MIN:
            return
        self._at += len(content)
        self._rows.feed(memoryview(content))
        if self._partial:
            offset, content = offset - len(self._partial), self._partial + content
        first, count = offset // self._width, len(content) // self._width
        low, high = np.searchsorted(self._picked, (first, first + count))
        elements = np.frombuffer(content, self._values.dtype, count)
        self._values[self._order[low:high]] = elements[self._picked[low:high] - first]
        if self._extremes is not None:
            self._extremes.feed(content)
        self._partial = content[count * self._width :]

    def sketch(self) -> Sketch | None:
        """Return the sketch; None if the tensor is too small, or not all of it was fed."""
        if self._at != self._size or self._size < SIZE_MIN:
            return None
        values, swapped = np.split(self._values, [self._own_count])
        limits = next(limits for below, limits in LIMITS if self._size < below)
        casts = CASTS.get(self._dtype, {})
        rounded = {dtype: narrow(values) for dtype, (narrow, _) in casts.items()}
        exact = [(self._dtype, values), *(rounded.items() if limits.samples else ())]
        exact += self._quantised(values, limits.schemes)
        # Constant tensors need no base, and would all be candidates for each other.
        exact = exact if (values != values[0]).any() else []
        samples = None
        if limits.samples:
            samples = Samples.thinned(self._dtype, self._count, values, limits.samples)
        return Sketch(
            self._dtype,
            self._count,
            tuple((dtype, self._exact(dtype, numbers)) for dtype, numbers in exact),
            tuple(
                dtype
                for dtype, (_, widen) in casts.items()
                if np.array_equal(widen(rounded[dtype]), values)
            ),
            self._exact(self._dtype, swapped) if exact and len(swapped) else None,
            tuple(_bands(values, self._dtype, self._count))[: limits.bands],
            samples,
            tuple(self._rows.smallest()),
            limits.rows,
            own_bits(values, self._dtype),
        )

    def _quantised(self, values: Values, schemes: int) -> Iterator[tuple[str, Values]]:
        if self._extremes is None:
            return
        for parameters in quantise.usual(self._extremes, schemes):
            numbers = np.frombuffer(quantise.quantised(values.view("<f4"), parameters), "u1")
            if (numbers != numbers[0]).any():
                yield parameters.dtype, numbers

    def _exact(self, dtype: str, values: Values) -> int:
        head = f"{dtype} {self._count} ".encode()
        return xxhash.xxh3_64_intdigest(head + values.tobytes())


def _swapped(picked: Positions, shape: tuple[int, ...], count: int) -> Positions:
    """Return the positions in a tensor of those in `picked` of its transpose."""
    if len(shape) < 2 or math.prod(shape) != count or min(shape[-2:]) < 2:
        return np.empty(0, np.int64)
    rows, columns = shape[-2:]
    before, within = np.divmod(picked, rows * columns)
    column, row = np.divmod(within, rows)
    positions_before: Positions = before * (rows * columns) + row * columns + column
    return positions_before


def _bands(values: Values, dtype: str, count: int) -> Iterator[int]:
    numbers = ordinals(values, dtype)
    octaves = [numbers[-number * PER_OCTAVE :][:PER_OCTAVE] for number in (3, 2, 1)]
    top = count.bit_length() - 1
    for number in range(BANDS):
        yield from _band(f"{dtype} {top} {number}", octaves[0], octaves[1], number)
    for number in range(BANDS_OF_HALF):
        yield from _band(f"{dtype} {top - 1} {number}", octaves[1], octaves[2], number)


def _band(name: str, later: Ordinals, earlier: Ordinals, number: int) -> Iterator[int]:
    part = slice(number * BITS, (number + 1) * BITS)
    larger = later[part] > earlier[part]
    # Nearly equal bits are those of any sparse or sorted tensor, so they identify none.
    if 2 <= larger.sum() <= BITS - 2:
        yield xxhash.xxh3_64_intdigest(f"{name} ".encode() + np.packbits(larger).tobytes())
