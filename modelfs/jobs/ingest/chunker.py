"""The cut of a file into pieces. Pure: tensor spans in, pieces out.

No piece straddles the start of a tensor. A tensor longer than the chunk size is cut on a grid from
its own start, so that equal tensors give equal pieces at any offset in a file. Bytes outside of
tensors (headers, protobuf framing, padding), and tensors too small for a chunk of their own, are
*glue* if the stretch is short. Longer stretches are cut on a grid from their start. Glue pieces of
one neighbourhood share a *skeleton* chunk, so that an ONNX file does not become hundreds of chunks
of 50 bytes.

Example. A file with a header of 600 bytes, a tensor of 2.5 MiB, a bias of 96 bytes, and a tensor of
300 KiB, cut with chunks of 1 MiB::

    bytes      piece   role      chunk
    header     1       GLUE      a skeleton, with the bias
    tensor     2 to 4  TENSOR    1 MiB, 1 MiB, 0.5 MiB
    bias       5       GLUE      the skeleton of piece 1
    tensor     6       TENSOR    300 KiB
"""

import enum
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from modelfs.formats.layout import TensorSpan
from modelfs.store.index.ranges import RangeSet

# Smaller tensors are glue: a chunk of its own takes about this many bytes of index.
TENSOR_MIN: Final = 128
# Longer stretches outside of tensors are not glue.
GLUE_MAX: Final = 64 << 10
# Glue pieces that start in the same part of this length may share a skeleton.
NEIGHBOURHOOD: Final = 64 << 20


class Role(enum.Enum):
    """The kind of bytes in a piece, which decides how they are stored."""

    TENSOR = enum.auto()  # a tensor, or a part of one: a chunk, plain until it is optimized
    PLAIN = enum.auto()  # a long stretch outside of tensors: a chunk, compressed if that pays
    GLUE = enum.auto()  # a short one: a part of a skeleton chunk, compressed if that pays


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of file bytes in one role. It becomes a chunk, or with `GLUE` a part of one."""

    start: int
    stop: int
    role: Role

    @property
    def size(self) -> int:
        return self.stop - self.start


class Cutter:
    """The cut of one file."""

    def __init__(self, spans: Sequence[TensorSpan], size: int, chunk_size: int) -> None:
        """Plan the cut of a file of `size` bytes; spans are in order and do not overlap."""
        self._chunk_size = chunk_size
        # Tiles of the file: each tensor worth a chunk, and each stretch between two of them.
        self._uncut: list[Piece] = []
        tensors = [span for span in spans if span.size >= TENSOR_MIN and span.start < size]
        starts = [0, *(span.stop for span in tensors)]
        stops = [*(span.start for span in tensors), size]
        for number, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            if start < stop:
                is_glue = bool(tensors) and stop - start <= min(GLUE_MAX, chunk_size)
                self._uncut.append(Piece(start, stop, Role.GLUE if is_glue else Role.PLAIN))
            if number < len(tensors):
                span = tensors[number]
                self._uncut.append(Piece(span.start, min(span.stop, size), Role.TENSOR))

    def pieces(self, data: RangeSet) -> Iterator[Piece]:
        """Yield the pieces that overlap `data`, clipped to it, in order.

        Costs time for these pieces and the tensors around them; the file's size does not matter.
        """
        step = self._chunk_size
        begin = next((start for start, _ in data), 0)
        first = bisect_right(self._uncut, begin, key=lambda piece: piece.stop)
        for uncut in self._uncut[first:]:
            if uncut.start >= data.stop:
                return
            for start, stop in data.within(uncut.start, uncut.stop):
                if uncut.role is Role.GLUE:
                    yield Piece(start, stop, Role.GLUE)
                    continue
                on_grid = uncut.start + (start - uncut.start) // step * step
                for cut in range(on_grid, stop, step):
                    yield Piece(max(cut, start), min(cut + step, stop), uncut.role)


def skeletons(glue: Sequence[Piece], chunk_size: int) -> Iterator[list[Piece]]:
    """Group glue pieces into skeleton chunks.

    The groups depend on the offsets of the pieces only, not on the order of writes: the same file
    always gives the same skeletons.
    """
    group: list[Piece] = []
    size = 0
    for piece in glue:
        is_near = group and group[0].start // NEIGHBOURHOOD == piece.start // NEIGHBOURHOOD
        if group and not (is_near and size + piece.size <= chunk_size):
            yield group
            group, size = [], 0
        group.append(piece)
        size += piece.size
    if group:
        yield group
