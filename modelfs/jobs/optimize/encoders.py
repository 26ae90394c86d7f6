"""Encoders: each derives the chunks of one tensor from other tensors.

Theory of operation. A candidate is a hint, found by sketches or by name. An encoder reads the bytes
of the candidate and those of a chunk, and returns a derived form of the chunk, decoded and
compared, or None if the candidate does not have that content. There is one encoder for each codec
that derives::

    relation         encoder            a chunk is                           payload
    CAST             CastEncoder        the source in another dtype          2 dtypes
    CAST             QuantiseEncoder    the source as 8-bit integers         scale, zero point
    TRANSPOSE        TransposeEncoder   a part of the transposed source      shape, offset
    EQUAL, ALIGNED   GatherEncoder      runs of bytes of some sources        none
    NEAR             DeltaEncoder       the source and small differences     the differences

All but the delta are *exact*: they store a recipe, 20 bytes for one run of a source, and a payload
of up to some 20 bytes. With WIDER, it is the candidate that is derived, from the new tensor.

Example. The word embeddings of a fine-tune lie in one chunk of 393,216 bytes, and so do those of
the base. `DeltaEncoder.encode(content, 0)` finds that bytes 0 to 393,216 of the source are all of
chunk 1, encodes the difference in 54,831 bytes, and returns a form with the recipe (chunk 1, skip
0, length 393,216) before them. For a rounded copy of the base, `CastEncoder` returns a form of 22
bytes: the recipe, and the two dtypes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

from modelfs.codecs import cast, delta, quantise, transpose
from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import Element, element_of
from modelfs.jobs.optimize.forms import Form, derived_form
from modelfs.store.chunks.form import TENSOR_MAX
from modelfs.store.chunks.recipe import SourceRun
from modelfs.store.files.tensor_view import TensorView

# The blocks in which two byte strings are compared for a common beginning.
GRAIN: Final = 64 << 10
# The bytes of a source that are read at a time to find its extremes.
STEP: Final = 4 << 20


Gather = Callable[[Sequence[SourceRun]], bytes]


class Encoder(Protocol):
    """Derives the chunks of one tensor. Any thread."""

    def encode(self, content: bytes, start: int) -> Form | None:
        """Return a derived form of a chunk, None if the source does not give its content.

        Args:
            content: of the chunk.
            start: offset of its first byte in the tensor.

        Raises:
            CorruptChunk: a chunk of the source is damaged.
        """
        ...


class CastEncoder:
    """Values of the source, rounded to a narrower dtype or widened to a wider one."""

    def __init__(self, source: TensorView, target: Element) -> None:
        self._source = source
        self._from = source.element
        self._to = target

    def encode(self, content: bytes, start: int) -> Form | None:
        if start % self._to.width or len(content) % self._to.width:
            return None
        low = start // self._to.width * self._from.width
        high = low + len(content) // self._to.width * self._from.width
        runs = self._source.runs(low, high)
        values = self._source.read(low, high)
        if runs is None or values is None:
            return None
        payload = cast.encode(self._from, self._to)
        return derived_form(CodecId.CAST, content, runs, values, payload)


class QuantiseEncoder:
    """Values of the source as 8-bit integers, with a scale that follows from all its values."""

    def __init__(self, source: TensorView, dtype: str) -> None:
        self._source = source
        self._dtype = dtype
        self._last: quantise.Parameters | None = None  # those of the last chunk that was encoded

    @cached_property
    def _parameters(self) -> list[quantise.Parameters]:
        extremes = quantise.Extremes()
        for start in range(0, self._source.size, STEP):
            values = self._source.read(start, min(start + STEP, self._source.size))
            if values is None:
                return []
            extremes.feed(values)
        return quantise.candidates(extremes, self._dtype)

    def encode(self, content: bytes, start: int) -> Form | None:
        low, high = (quantise.SOURCE_WIDTH * at for at in (start, start + len(content)))
        runs, values = self._source.runs(low, high), self._source.read(low, high)
        if runs is None or values is None:
            return None
        # The parameters of the last chunk first: all chunks of a tensor usually have the same.
        for parameters in sorted(self._parameters, key=lambda other: other != self._last):
            payload = quantise.encode(parameters)
            form = derived_form(CodecId.QUANTISE, content, runs, values, payload)
            if form is not None:
                self._last = parameters
                return form
        return None


def conversion_encoder(source: TensorView, dtype: str) -> Encoder:
    """Return the encoder that derives a tensor of another dtype from the values of `source`."""
    if dtype in quantise.TARGETS:
        return QuantiseEncoder(source, dtype)
    return CastEncoder(source, element_of(dtype))


class TransposeEncoder:
    """The source with its last two axes swapped."""

    def __init__(self, source: TensorView) -> None:
        self._source = source
        *outer, rows, columns = source.row.shape
        # From the shape, not the dtype: here a complex number is one element.
        width = source.size // max(1, math.prod(source.row.shape))
        self._geometry = transpose.Geometry(width, math.prod(outer), rows, columns)

    @cached_property
    def _values(self) -> bytes | None:
        return self._source.read(0, self._source.size)

    @cached_property
    def _transposed(self) -> bytes | None:
        if self._values is None or not self._geometry.size == self._source.size <= TENSOR_MAX:
            return None  # too large, or its elements have less than a byte
        return transpose.whole(self._values, self._geometry)

    def encode(self, content: bytes, start: int) -> Form | None:
        # One comparison with the whole, instead of a transposition for each chunk.
        if self._transposed is None or self._transposed[start : start + len(content)] != content:
            return None
        runs = self._source.runs(0, self._source.size)
        assert runs is not None
        assert self._values is not None
        payload = transpose.encode(self._geometry, start)
        return derived_form(CodecId.TRANSPOSE, content, runs, self._values, payload)


class DeltaEncoder:
    """The differences to the values at the same place of the source."""

    def __init__(
        self,
        source: TensorView,
        element: Element,
        resolve: Callable[[SourceRun], SourceRun],
        gather: Gather,
    ) -> None:
        """Prepare deltas to the chunks of `source`.

        Args:
            source: the tensor that has the bases.
            element: of the tensor to encode.
            resolve: returns the run to use as base in place of a run of the source.
            gather: returns the bytes of runs.
        """
        self._source = source
        self._element = element
        self._resolve = resolve
        self._gather = gather

    def base_runs(self, start: int, size: int) -> tuple[SourceRun, ...]:
        """Return the base of `size` bytes from `start` on, shorter if the source is; () if none."""
        runs = self._source.runs(start, min(start + size, self._source.size))
        return tuple(self._resolve(run) for run in runs or ())

    def encode(self, content: bytes, start: int) -> Form | None:
        if not (runs := self.base_runs(start, len(content))):
            return None
        return delta_form(content, self._element, runs, self._gather(runs))


def delta_form(
    content: bytes, element: Element, runs: Sequence[SourceRun], base: bytes
) -> Form | None:
    """Return the delta of a content to `base`, the bytes of `runs`."""
    payload = delta.encode(content, base, element)
    return derived_form(CodecId.DELTA, content, runs, base, payload)


@dataclass(frozen=True, slots=True)
class Alignment:
    """A source with bytes in common: byte `at` of the tensor is byte `at + shift` of the source."""

    source: TensorView
    shift: int


class GatherEncoder:
    """Runs of other tensors, concatenated: a fused tensor, or a part of one."""

    def __init__(self, alignments: Sequence[Alignment], gather: Gather) -> None:
        self._alignments = alignments
        self._gather = gather

    def encode(self, content: bytes, start: int) -> Form | None:
        runs: list[SourceRun] = []
        at = 0
        while at < len(content):
            longest = self._longest_match(content, start, at)
            if not longest:
                return None
            runs += longest
            at += sum(run.length for run in longest)
        return derived_form(CodecId.GATHER, content, runs, self._gather(runs), b"")

    def _longest_match(self, content: bytes, start: int, at: int) -> list[SourceRun]:
        """Return the runs of one source that match most of the content from `at` on."""
        best: tuple[SourceRun, ...] = ()
        length = 0
        for alignment in self._alignments:
            low = start + at + alignment.shift
            high = min(low + len(content) - at, alignment.source.size)
            if low < 0 or high - low <= length:
                continue
            runs, values = alignment.source.runs(low, high), alignment.source.read(low, high)
            if runs is not None and values is not None:
                matching = _common_prefix(content[at : at + len(values)], values)
                if matching > length:
                    best, length = runs, matching
        match: list[SourceRun] = []
        for run in best:
            if length > 0:
                match.append(SourceRun(run.chunk, run.skip, min(run.length, length)))
                length -= run.length
        return match


def _common_prefix(left: bytes, right: bytes) -> int:
    """Return the length of the common beginning of two strings of equal length."""
    if left == right:
        return len(left)
    at = 0
    while left[at : at + GRAIN] == right[at : at + GRAIN]:
        at += GRAIN
    pairs = zip(left[at : at + GRAIN], right[at : at + GRAIN], strict=True)
    return at + next(number for number, (a, b) in enumerate(pairs) if a != b)
