"""Tensors of a file."""

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from modelfs.errors import NotFound
from modelfs.formats.layout import TensorSpan
from modelfs.jobs.inspect.report import Base, TensorReport
from modelfs.reader.dtypes import fits, numpy_dtype
from modelfs.reader.file_reader import FileReader, writable

Array = np.ndarray[Any, Any]


class Tensor:
    """A tensor of a file. Comes from `File.tensors`.

    An integer or a slice of the first axis reads only these rows; any other index reads the whole
    tensor. Functions of numpy accept a tensor as an array, which is always a copy.

    >>> import modelfs, numpy
    >>> store = modelfs.open(example)
    >>> weight = store["llama/model.safetensors"].tensors["embed.weight"]
    >>> weight
    <embed.weight: F32 [4, 3]>
    >>> weight[1:3]
    array([[3., 4., 5.],
           [6., 7., 8.]], dtype=float32)
    >>> float(numpy.sum(weight))
    66.0

    Each read checks that the file still has the tensor at its place, and raises `NotFound` if it
    does not. Once the file is in chunks, the bytes are those of one commit. Until then, bytes that
    are overwritten in place may show early: while the file's header still has the tensor at its
    place, a read may return bytes of the new content.

    Attributes:
        name: as in the file. In a PyTorch file, the first path to the storage: `layer.weight`.
        dtype: the name that safetensors uses, in all formats: "F32", "BF16", "I64", ...
        shape: in elements. In a PyTorch file, of the storage, in the order of its memory.
        offset: bytes from the start of the file.
        nbytes: size in bytes.
    """

    def __init__(self, reader: FileReader, span: TensorSpan) -> None:
        self.name = span.name
        self.dtype = span.dtype
        self.shape = span.shape
        self.offset = span.start
        self.nbytes = span.size
        self._reader = reader
        self._span = span

    def __repr__(self) -> str:
        return f"<{self.name}: {self.dtype} {list(self.shape)}>"

    def __eq__(self, other: object) -> bool:
        """Whether it is the same tensor of the same file. For values: `numpy.array_equal`."""
        return (
            isinstance(other, Tensor)
            and self._span == other._span
            and self._reader.identity == other._reader.identity
        )

    def __hash__(self) -> int:
        return hash((self.name, self.offset, self._reader.identity))

    @property
    def ndim(self) -> int:
        """How many dimensions the tensor has."""
        return len(self.shape)

    def __len__(self) -> int:
        """Return the length of the first axis.

        Raises:
            TypeError: the tensor is a scalar, as of numpy.
        """
        if not self.shape:
            raise TypeError(f"{self.name} is a scalar: it has no length")
        return self.shape[0]

    def __bool__(self) -> bool:
        return True  # as of any other object; the length may be 0

    def __iter__(self) -> Iterator[Any]:
        """Yield the rows of the first axis; each is one read.

        Raises:
            TypeError: the tensor is a scalar, or as `numpy`.
            NotFound, CorruptChunk, LostBytes, OSError: as `numpy`.
        """
        return map(self.__getitem__, range(len(self)))

    def bytes(self) -> bytes:
        """Return a copy of the tensor's bytes, little-endian as in the file.

        Raises:
            NotFound: the file was removed, or does not have the tensor there any more.
            CorruptChunk: some of the bytes are damaged; the message names the file.
            LostBytes: the disk has lost some of the bytes; the message names the file.
            OSError: the disk failed.
        """
        return self._reader.read(self.offset, self.nbytes, self._span)

    def read_into(self, buffer: Any) -> None:
        """Fill a buffer with the tensor's bytes. After an error its content is undefined.

        Bytes that are stored plain are not copied in between. For example, into a tensor of
        PyTorch: `tensor.read_into(weight.reshape(-1).view(torch.uint8).numpy())`.

        Args:
            buffer: of `nbytes` bytes, such as a bytearray, or a numpy array of the tensor's dtype
                or of unsigned integers.

        Raises:
            ValueError: the buffer has another size.
            TypeError: the buffer is read-only, not contiguous in C order, or of another dtype.
            NotFound, CorruptChunk, LostBytes, OSError: as `bytes`.
        """
        into = writable(buffer)
        if len(into) != self.nbytes:
            raise ValueError(f"{self.name} has {self.nbytes} bytes, the buffer {len(into)}")
        elements = np.asarray(buffer if isinstance(buffer, np.ndarray) else memoryview(buffer))
        if not fits(elements.dtype, self.dtype):
            raise TypeError(
                f"{self.name} is of {self.dtype}, the buffer of {elements.dtype}; "
                "for the raw bits, give a view of unsigned integers"
            )
        self._reader.read_into(self.offset, into, self._span)

    def numpy(self) -> Array:
        """Return a copy as an array. BF16 and the 8-bit floats need the package ml_dtypes.

        Raises:
            TypeError: numpy has no such dtype; use `bytes` or `read_into`.
            NotFound, CorruptChunk, LostBytes, OSError: as `bytes`.
        """
        return self._read(self.shape, self.offset)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a tensor of a store cannot be an array without a copy")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __getitem__(self, index: Any) -> Any:
        """Return elements as numpy's indexing does.

        Raises:
            IndexError: as numpy does.
            TypeError, NotFound, CorruptChunk, LostBytes, OSError: as `numpy`.
        """
        first, *others = index if isinstance(index, tuple) and index else (index,)
        if not self.shape or isinstance(first, bool | np.bool_):
            return self.numpy()[index]
        if isinstance(first, slice):
            rows = range(self.shape[0])[first]
            low, high = min(rows, default=0), max(rows, default=-1) + 1
            start = rows.start - low if rows else 0
            return self._rows(low, high)[start :: rows.step][(slice(None), *others)]
        try:
            row = operator.index(first)
        except TypeError:
            return self.numpy()[index]
        if not -self.shape[0] <= row < self.shape[0]:
            raise IndexError(f"row {row} of {self.shape[0]}")
        row %= self.shape[0]
        return self._rows(row, row + 1)[(0, *others)]

    def _rows(self, start: int, stop: int) -> Array:
        row_size = self.nbytes // max(1, self.shape[0])
        return self._read((stop - start, *self.shape[1:]), self.offset + start * row_size)

    def _read(self, shape: Sequence[int], offset: int) -> Array:
        dtype = numpy_dtype(self.dtype)
        if math.prod(self.shape) * dtype.itemsize != self.nbytes:
            raise TypeError(f"{self.name}: {self.nbytes} bytes are not {self.dtype} {self.shape}")
        array = np.empty(shape, dtype)
        self._reader.read_into(offset, writable(array), self._span)
        return array

    def report(self) -> TensorReport:
        """Return the tensor's part of `File.report`, at the same cost.

        Raises:
            NotFound: the file was removed, or does not have the tensor there any more.
        """
        for report in self._reader.report().tensors:
            if (report.name, report.start) == (self.name, self.offset):
                return report
        raise NotFound(f"{self._reader.path} does not have the tensor {self.name} any more")

    @property
    def derivation(self) -> tuple[Base, ...]:
        """The files and tensors that its bytes derive from, at the cost of `report`.

        Raises:
            NotFound: as `report`.
        """
        return self.report().derived_from
