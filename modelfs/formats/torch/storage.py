"""The storages of a torch archive: the records `data/N`, with the name, dtype and shape of each.

A storage is a row of elements, of which tensors are views: several of them, of a part of it, with
their dimensions in any order. Files have storages in common, not views, so the storage is the span.

Example. A storage of 24 bytes with the dtype F32 has this shape by its views::

    View(0, (2, 3), (3, 1))   (2, 3)
    View(0, (2, 3), (1, 2))   (3, 2): it is a transposed tensor, and so lie its elements
    View(1, (2,), (1,))       (6,): it leaves out a part of the storage
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from modelfs.formats.budget import MemoryBudget
from modelfs.formats.dtypes import BITS, tensor_size
from modelfs.formats.layout import MalformedModel, TensorSpan
from modelfs.formats.names import UniqueNames

# The memory of a storage before it is a span, in bytes: its places in arrays and lists.
STORAGE: Final = 72

# torch has no more ("MAX_TENSORIMPL_DIMS"): storages with other views are rows of elements.
MAX_DIMS: Final = 64

UNKNOWN: Final = "U8"

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as torch keeps it: the places of its elements in a storage, counted in elements."""

    offset: int
    size: Shape
    stride: Shape

    def shape_in_memory(self) -> Shape | None:
        """Return the shape of the elements in their order in memory; None if there are gaps.

        That of a contiguous tensor is its size, that of a transposed one the size transposed back.
        """
        if self.offset or len(self.size) != len(self.stride) or len(self.size) > MAX_DIMS:
            return None
        if _is_dense(self.size, self.stride):
            return self.size
        order = sorted(range(len(self.size)), key=lambda dim: -self.stride[dim])
        size = tuple(self.size[dim] for dim in order)
        return size if _is_dense(size, [self.stride[dim] for dim in order]) else None


def _is_dense(size: Sequence[int], stride: Sequence[int]) -> bool:
    expected = 1
    for count, step in zip(reversed(size), reversed(stride), strict=True):
        if count != 1:
            if step != expected:
                return False
            expected *= count
    return True


class Storages:
    """All storages of an archive, in file order.

    There may be 100,000 of them, so they are kept in columns, and not as an object each.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._numbers = array("Q")
        self._starts = array("Q")
        self._stops = array("Q")
        self._dtypes: list[str | None] = []
        self._shapes: list[Shape | None] = []
        self._names: list[str | None] = []
        self._by_number = array("Q")
        self._unique = UniqueNames()

    def add(self, number: int, start: int, stop: int) -> None:
        """Note a record. Raises MalformedModel if there is no memory for more."""
        self._budget.reserve(STORAGE)
        self._numbers.append(number)
        self._starts.append(start)
        self._stops.append(stop)
        for column in (self._dtypes, self._shapes, self._names):
            column.append(None)

    def close(self) -> None:
        """Sort the storages by number, once all are added.

        Raises:
            MalformedModel: two have the same number.
        """
        order = sorted(range(len(self._numbers)), key=self._numbers.__getitem__)
        if any(self._numbers[left] == self._numbers[right] for left, right in pairwise(order)):
            raise MalformedModel("two records of one name")
        self._by_number = array("Q", order)

    def find(self, number: int) -> int | None:
        """Return the index of the storage in record `data/number`; None without that record."""
        at = bisect_left(self._by_number, number, key=self._numbers.__getitem__)
        if at == len(self._by_number) or self._numbers[self._by_number[at]] != number:
            return None
        return self._by_number[at]

    def note_dtype(self, index: int, dtype: str) -> None:
        self._dtypes[index] = self._dtypes[index] or dtype

    def note_view(self, index: int, view: View) -> None:
        """Note a tensor that views a storage whose dtype was noted.

        The storage's shape is that of the first view, unless that leaves out or repeats a part of
        the storage, or another view has another shape.
        """
        dtype, noted = self._dtypes[index], self._shapes[index]
        if dtype is None:
            return
        shape, size = view.shape_in_memory(), self._stops[index] - self._starts[index]
        if shape is None or tensor_size(dtype, shape) != size:
            shape = self._row(index)[1]
        if noted is None:
            self._budget.reserve(MemoryBudget.DIM * len(shape))
            self._shapes[index] = shape
        elif noted != shape:
            self._shapes[index] = self._row(index)[1]

    def note_name(self, index: int, path: str) -> None:
        """Note the path that leads to a tensor; the first one to a storage is its name."""
        if path and self._names[index] is None:
            name = self._unique.add(path)
            self._budget.reserve_name(name)
            self._names[index] = name

    def spans(self) -> Iterator[TensorSpan]:
        """Yield the spans, in file order. Raises MalformedModel if there is no memory for them."""
        for index, number in enumerate(self._numbers):
            if self._names[index] is None:
                self.note_name(index, f"data/{number}")
            name, shape = self._names[index], self._shapes[index]
            assert name is not None
            dtype, row = self._row(index)
            self._budget.reserve_span(0 if shape else 1)
            start, stop = self._starts[index], self._stops[index]
            yield TensorSpan(name, dtype, row if shape is None else shape, start, stop)

    def _row(self, index: int) -> tuple[str, Shape]:
        """Return dtype and number of the elements: bytes if they are no whole number."""
        dtype = self._dtypes[index] or UNKNOWN
        size, width = self._stops[index] - self._starts[index], BITS[dtype] // 8
        return (dtype, (size // width,)) if size % width == 0 else (UNKNOWN, (size,))
