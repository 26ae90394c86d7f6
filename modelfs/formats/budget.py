"""The memory that a scan may take for its results, so that no file can fill all of it.

Example. A scan that keeps a name and its span, and works with a list of 1000 bytes meanwhile::

    budget = MemoryBudget()
    budget.reserve_name("weight")      # 64 bytes and those of the text
    budget.reserve_span(dims=2)        # 150 + 2 * 40 bytes
    with Borrowed(budget) as work:
        work.reserve(1000)             # given back where the block ends
"""

import sys
from typing import Final, Self

from modelfs.formats.layout import MalformedModel


class MemoryBudget:
    """The memory that is left to one scan.

    120,000 tensors fit, with names of 60 characters and two dimensions: several times as many as
    the largest models have.
    """

    # Bytes of a name beside its characters, of a span beside its name, and of each of its
    # dimensions. With the places in lists and tables, measured and rounded up.
    NAME: Final = 64
    SPAN: Final = 150
    DIM: Final = 40
    SIZE: Final = 48 << 20

    def __init__(self) -> None:
        self._left = self.SIZE

    def reserve(self, size: int) -> None:
        """Reserve `size` more bytes.

        Raises:
            MalformedModel: so many are not left.
        """
        self._left -= size
        if self._left < 0:
            raise MalformedModel("more tensors, or longer names, than there is memory for")

    def give_back(self, size: int) -> None:
        """Give back `size` bytes that were reserved."""
        self._left += size

    def reserve_name(self, name: str) -> None:
        """Reserve the memory of a name. Raises what `reserve` does."""
        self.reserve(self.NAME + sys.getsizeof(name))

    def reserve_span(self, dims: int) -> None:
        """Reserve the memory of a span whose name is reserved. Raises what `reserve` does."""
        self.reserve(self.SPAN + self.DIM * dims)


class Borrowed:
    """A part of a budget, all of which is given back where its `with` block ends."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._reserved = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back(self._reserved)

    def reserve(self, size: int) -> None:
        """Reserve `size` more bytes. Raises what `MemoryBudget.reserve` does."""
        self._reserved += size
        self._budget.reserve(size)

    def give_back(self, size: int) -> None:
        """Give back `size` bytes that were reserved."""
        self._reserved -= size
        self._budget.give_back(size)
