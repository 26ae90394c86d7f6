"""Where a file is cut into chunks. Pure: spans in, cut points out.

No piece straddles the start of a tensor. A tensor longer than the chunk size is cut on a grid
relative to its own start, so that equal tensors give equal pieces wherever they lie. What lies
between tensors (headers, protobuf framing, padding) and tensors too small to be worth a chunk are
*glue*, unless they are long: glue pieces of one neighbourhood share a *skeleton* chunk, so that an
ONNX file does not become hundreds of chunks of 50 bytes.
"""

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from modelfs.formats.layout import TensorSpan
from modelfs.store.index.ranges import RangeSet

# A chunk of its own costs about this much index, so smaller tensors are not worth one.
TENSOR_MIN: Final = 128
# Longer stretches without a tensor are cut on a grid like a tensor.
GLUE_MAX: Final = 64 << 10
# Glue pieces whose starts lie in the same stretch of this length share a skeleton.
NEIGHBOURHOOD: Final = 64 << 20


class Role(enum.Enum):
    """What a piece holds, and so how it is stored."""

    TENSOR = enum.auto()
    PLAIN = enum.auto()
    GLUE = enum.auto()


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of file bytes that becomes one chunk, or with `GLUE` a part of one."""

    start: int
    stop: int
    role: Role


@dataclass(frozen=True, slots=True)
class _Region:
    start: int
    stop: int
    role: Role


class Cutter:
    """The cut of one file."""

    def __init__(self, spans: Sequence[TensorSpan], size: int, chunk_size: int) -> None:
        """Plan the cut of a file of `size` bytes; spans are in order and do not overlap."""
        self._regions = list(_regions(spans, size, min(GLUE_MAX, chunk_size)))
        self._chunk_size = chunk_size

    def pieces(self, data: RangeSet) -> Iterator[Piece]:
        """Yield the pieces that overlap `data`, clipped to it, in order.

        The cost is that of what is yielded and of the tensors, never of the file's size.
        """
        ranges = list(data)
        at = 0
        for region in self._regions:
            while at < len(ranges) and ranges[at][1] <= region.start:
                at += 1
            mine = at
            while mine < len(ranges) and ranges[mine][0] < region.stop:
                yield from self._cut(region, *ranges[mine])
                mine += 1

    def _cut(self, region: _Region, start: int, stop: int) -> Iterator[Piece]:
        start, stop = max(start, region.start), min(stop, region.stop)
        if region.role is Role.GLUE:
            yield Piece(start, stop, Role.GLUE)
            return
        step = self._chunk_size
        first = region.start + (start - region.start) // step * step
        for cut in range(first, stop, step):
            yield Piece(max(cut, start), min(cut + step, stop), region.role)


def _regions(spans: Sequence[TensorSpan], size: int, glue_max: int) -> Iterator[_Region]:
    """Tile the file: one region for each tensor worth a chunk, one for each stretch between."""
    worth = [span for span in spans if span.size >= TENSOR_MIN and span.start < size]
    starts = [0, *(span.stop for span in worth)]
    ends = [*(span.start for span in worth), size]
    for at, (start, stop) in enumerate(zip(starts, ends, strict=True)):
        if start < stop:
            glue = bool(worth) and stop - start <= glue_max
            yield _Region(start, stop, Role.GLUE if glue else Role.PLAIN)
        if at < len(worth):
            yield _Region(worth[at].start, min(worth[at].stop, size), Role.TENSOR)


def skeletons(glue: Sequence[Piece], chunk_size: int) -> Iterator[list[Piece]]:
    """Group glue pieces into those that share a chunk.

    The grouping depends on where pieces lie and not on when they were written, so that a file
    gives the same skeletons however it came.
    """
    group: list[Piece] = []
    for piece in glue:
        if group and not _together(group, piece, chunk_size):
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def _together(group: list[Piece], piece: Piece, chunk_size: int) -> bool:
    size = sum(each.stop - each.start for each in group) + piece.stop - piece.start
    same = group[0].start // NEIGHBOURHOOD == piece.start // NEIGHBOURHOOD
    return same and size <= chunk_size
