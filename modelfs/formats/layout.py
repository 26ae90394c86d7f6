"""What a scanner says about a file: which bytes of it are which tensor."""

import enum
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

# read_at(offset, size) returns the file's bytes from `offset`, fewer than `size` only at its end.
ReadAt = Callable[[int, int], bytes]


class MalformedModel(Exception):
    """The bytes are not a consistent file of the format; they are to be kept as plain bytes."""


class TruncatedModel(MalformedModel):
    """The bytes end before the model does: more of them could make it a consistent file."""


class MemoryBudget:
    """The memory that a scan may still take for what it keeps, so that no file can fill it all.

    Of tensors with names of 60 characters and two dimensions, 120,000 fit: several times what the
    files of the largest models have.
    """

    # Bytes that a name takes beside its characters, a span beside its name, and each of its
    # dimensions: with the places in lists and tables, measured and rounded up.
    NAME: Final = 64
    SPAN: Final = 150
    DIM: Final = 40
    SIZE: Final = 48 << 20

    def __init__(self) -> None:
        self._left = self.SIZE

    def reserve(self, size: int) -> None:
        """Note that `size` more bytes are kept.

        Raises:
            MalformedModel: they are too many.
        """
        self._left -= size
        if self._left < 0:
            raise MalformedModel("more tensors, or longer names, than there is memory for")

    def give_back(self, size: int) -> None:
        """Note that `size` bytes that were taken are kept no longer."""
        self._left += size

    def reserve_name(self, name: str) -> None:
        """Note that a name is kept. Raises what `take` does."""
        self.reserve(self.NAME + sys.getsizeof(name))

    def reserve_span(self, dims: int) -> None:
        """Note that a span of a name that is kept is kept, too. Raises what `take` does."""
        self.reserve(self.SPAN + self.DIM * dims)


class Borrowed:
    """A part of an allowance, all of which is given back where its `with` block ends."""

    def __init__(self, allowance: MemoryBudget) -> None:
        self._allowance = allowance
        self._taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back(self._taken)

    def reserve(self, size: int) -> None:
        """Note that `size` more bytes are kept. Raises what the allowance does."""
        self._taken += size
        self._allowance.reserve(size)

    def give_back(self, size: int) -> None:
        """Note that `size` bytes are kept no longer."""
        self._taken -= size
        self._allowance.give_back(size)


class Format(enum.IntEnum):
    """What a file's content was recognised as. Stored in the index: never renumber."""

    PLAIN = 0
    SAFETENSORS = 1
    ONNX = 2
    ONNX_DATA = 3
    TORCH = 4


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """One tensor's bytes: `start` up to `stop`, in bytes from the start of the file.

    `dtype` is a safetensors dtype name (`F32`, `BF16`, `F8_E4M3`, ...) whatever the format, or
    one of the few that only ONNX has (`dtypes.BITS` is the list); `shape` is the logical one, in
    elements.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class ExternalSpan:
    """A tensor whose bytes are in another file: `location`, relative to the model's folder."""

    location: str
    span: TensorSpan


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors of one file, in file order and without overlap, and those it keeps elsewhere."""

    format: Format
    spans: tuple[TensorSpan, ...] = ()
    external: tuple[ExternalSpan, ...] = ()


PLAIN: Final = Layout(Format.PLAIN)
