"""The layout of a file: which bytes of it are which tensor."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

# read_at(offset, size) returns the file's bytes from `offset`, fewer than `size` only at its end.
ReadAt = Callable[[int, int], bytes]


class MalformedModel(Exception):
    """The bytes are not a consistent file of the format; they are kept as plain bytes."""


class TruncatedModel(MalformedModel):
    """The bytes end before the model does: more of them could make it a consistent file."""


class Format(enum.IntEnum):
    """The format of a file's content. Stored in the index: never renumber."""

    PLAIN = 0
    SAFETENSORS = 1
    ONNX = 2
    ONNX_DATA = 3
    TORCH = 4


@dataclass(frozen=True, slots=True)
class TensorSpan:
    """One tensor's bytes: `start` up to `stop`, in bytes from the start of the file.

    `dtype` is a name of safetensors (`F32`, `BF16`, `F8_E4M3`, ...) in all formats, or one of the
    few that only ONNX has; `dtypes.BITS` is the list. `shape` is the logical one, in elements.
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
    """The tensors in one file, in file order and without overlap, and those in other files."""

    format: Format
    spans: tuple[TensorSpan, ...] = ()
    external: tuple[ExternalSpan, ...] = ()


PLAIN: Final = Layout(Format.PLAIN)
