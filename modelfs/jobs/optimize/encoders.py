"""Proposals: how the chunks of a tensor could be made from a relative of it.

A relative is a hint, found by sketches. A proposal looks at the bytes: it returns a form for one
chunk's content, checked, or None.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Protocol

from modelfs.codecs import cast, delta, quantise, transpose
from modelfs.codecs.base import CodecId
from modelfs.codecs.elements import Element, element_of
from modelfs.jobs.optimize.forms import Form, derived
from modelfs.store.chunks.recipe import SourceRun
from modelfs.store.files.tensor_view import TensorView

# A transposed tensor is made whole, or parts of it would cost the whole again and again; it has to
# fit the page cache beside others.
TRANSPOSE_MAX: Final = 128 << 20
# The grain in which tensors are compared that have something in common at another place.
GRAIN: Final = 64 << 10
# What is read at once of a source of which all is looked at.
STEP: Final = 4 << 20


Gather = Callable[[Sequence[SourceRun]], bytes]


class Proposal(Protocol):
    """Makes forms for one tensor's chunks. Any thread."""

    def form(self, content: bytes, start: int) -> Form | None:
        """Return a form for the tensor's bytes from `start` on, None if it has none.

        Raises:
            CorruptChunk: a chunk of the source is damaged.
        """
        ...


class CastEncoder:
    """Values of the source, rounded to a narrower type or widened to a wider one."""

    def __init__(self, source: TensorView, target: Element) -> None:
        self._source = source
        self._from = source.element
        self._to = target

    def form(self, content: bytes, start: int) -> Form | None:
        if start % self._to.width or len(content) % self._to.width:
            return None
        low = start // self._to.width * self._from.width
        high = low + len(content) // self._to.width * self._from.width
        runs = self._source.runs(low, high)
        values = self._source.read(low, high)
        if runs is None or values is None:
            return None
        payload = cast.encode(self._from, self._to)
        return derived(CodecId.CAST, content, runs, values, payload)


class QuantiseEncoder:
    """Values of the source, mapped to integers of 8 bits as all of its values suggest."""

    def __init__(self, source: TensorView, dtype: str) -> None:
        self._source = source
        self._dtype = dtype
        self._last: quantise.Parameters | None = None  # by which a chunk was made

    @cached_property
    def _candidates(self) -> list[quantise.Parameters]:
        extremes = quantise.Extremes()
        for start in range(0, self._source.size, STEP):
            values = self._source.read(start, min(start + STEP, self._source.size))
            if values is None:
                return []
            extremes.feed(values)
        return quantise.candidates(extremes, self._dtype)

    def form(self, content: bytes, start: int) -> Form | None:
        low, high = (quantise.SOURCE_WIDTH * at for at in (start, start + len(content)))
        runs, values = self._source.runs(low, high), self._source.read(low, high)
        if runs is None or values is None:
            return None
        for each in sorted(self._candidates, key=lambda each: each != self._last):
            payload = quantise.encode(each)
            form = derived(CodecId.QUANTISE, content, runs, values, payload)
            if form is not None:
                self._last = each
                return form
        return None


def rounding(source: TensorView, dtype: str) -> Proposal:
    """Return what makes a tensor of another dtype of the source's values."""
    if dtype in quantise.TARGETS:
        return QuantiseEncoder(source, dtype)
    return CastEncoder(source, element_of(dtype))


class TransposeEncoder:
    """The source with its last two axes swapped."""

    def __init__(self, source: TensorView) -> None:
        self._source = source
        *outer, rows, columns = source.row.shape
        # Of what the shape says, not of the dtype: a complex number is one element here.
        width = source.size // max(1, math.prod(source.row.shape))
        self._geometry = transpose.Geometry(width, math.prod(outer), rows, columns)

    @cached_property
    def _values(self) -> bytes | None:
        return self._source.read(0, self._source.size)

    @cached_property
    def _whole(self) -> bytes | None:
        if self._values is None or not self._geometry.size == self._source.size <= TRANSPOSE_MAX:
            return None  # elements of less than a byte cannot be told apart, too
        return transpose.whole(self._values, self._geometry)

    def form(self, content: bytes, start: int) -> Form | None:
        # One look at the whole, instead of one for each part.
        if self._whole is None or self._whole[start : start + len(content)] != content:
            return None
        runs = self._source.runs(0, self._source.size)
        assert runs is not None
        assert self._values is not None
        payload = transpose.encode(self._geometry, start)
        return derived(CodecId.TRANSPOSE, content, runs, self._values, payload)


class DeltaEncoder:
    """A delta to the values at the same place of the source."""

    def __init__(
        self,
        source: TensorView,
        element: Element,
        resolve: Callable[[SourceRun], SourceRun],
        gather: Gather,
    ) -> None:
        """Take the source's chunks, or what `resolve` says to take in their place."""
        self._source = source
        self._element = element
        self._resolve = resolve
        self._gather = gather

    def runs(self, start: int, size: int) -> tuple[SourceRun, ...]:
        """Return what the base of so many bytes from `start` on is; nothing if there is none."""
        found = self._source.runs(start, min(start + size, self._source.size))
        return tuple(self._resolve(run) for run in found or ())

    def form(self, content: bytes, start: int) -> Form | None:
        if not (runs := self.runs(start, len(content))):
            return None
        return difference(content, self._element, runs, self._gather(runs))


def difference(
    content: bytes, element: Element, runs: Sequence[SourceRun], base: bytes
) -> Form | None:
    """Return the form that is a delta to the bytes of `runs`, which are `base`."""
    payload = delta.encode(content, base, element)
    return derived(CodecId.DELTA, content, runs, base, payload)


@dataclass(frozen=True, slots=True)
class Alignment:
    """A tensor that has bytes in common with another: byte `at` is its byte `at + shift`."""

    source: TensorView
    shift: int


class GatherEncoder:
    """Stretches of other tensors, put together: a fused tensor, or a part of one."""

    def __init__(self, alignments: Sequence[Alignment], gather: Gather) -> None:
        self._alignments = alignments
        self._gather = gather

    def form(self, content: bytes, start: int) -> Form | None:
        runs: list[SourceRun] = []
        at = 0
        while at < len(content):
            found = self._longest(content, start, at)
            if not found:
                return None
            runs += found
            at += sum(run.length for run in found)
        return derived(CodecId.GATHER, content, runs, self._gather(runs), b"")

    def _longest(self, content: bytes, start: int, at: int) -> tuple[SourceRun, ...]:
        # The runs that give the longest stretch from `at` on.
        best: tuple[SourceRun, ...] = ()
        length = 0
        for alignment in self._alignments:
            low = start + at + alignment.shift
            high = min(low + len(content) - at, alignment.source.size)
            if low < 0 or high - low <= length:
                continue
            runs, values = alignment.source.runs(low, high), alignment.source.read(low, high)
            if runs is not None and values is not None:
                same = _common(content[at : at + len(values)], values)
                if same > length:
                    best, length = _cut(runs, same), same
        return best


def _common(one: bytes, other: bytes) -> int:
    """Return how many bytes two strings of one length begin with that are the same."""
    if one == other:
        return len(one)
    at = 0
    while one[at : at + GRAIN] == other[at : at + GRAIN]:
        at += GRAIN
    left, right = one[at : at + GRAIN], other[at : at + GRAIN]
    return at + next(n for n, (a, b) in enumerate(zip(left, right, strict=True)) if a != b)


def _cut(runs: Sequence[SourceRun], length: int) -> tuple[SourceRun, ...]:
    found: list[SourceRun] = []
    for run in runs:
        if length <= 0:
            break
        found.append(SourceRun(run.chunk, run.skip, min(run.length, length)))
        length -= run.length
    return tuple(found)
