"""The expected content of a file, byte for byte. A hole of any length costs nothing."""

from collections.abc import Iterator
from typing import Final

BLOCK: Final = 64 << 10


class Content:
    """A model of one file's content."""

    def __init__(self) -> None:
        self.size = 0
        # Blocks that were written to, by number; all others are zeros. A block that was written
        # whole is an object that other contents may have, too, until it is changed.
        self._blocks: dict[int, bytes | bytearray] = {}

    def read(self, start: int, size: int) -> bytes:
        """Return the expected result of a read: fewer bytes than `size` at the end."""
        stop = max(start, min(start + size, self.size))
        parts: list[bytes | memoryview] = []
        for number, skip, length in _pieces(start, stop):
            block = self._blocks.get(number)
            parts.append(
                bytes(length) if block is None else memoryview(block)[skip : skip + length]
            )
        return b"".join(parts)

    def write(self, start: int, data: bytes) -> None:
        stop = start + len(data)
        for number, skip, length in _pieces(start, stop):
            at = number * BLOCK + skip - start
            piece = data[at : at + length]
            if length == BLOCK:
                self._blocks[number] = piece
            else:
                self._own(number)[skip : skip + length] = piece
        if data:
            self.size = max(self.size, stop)

    def zero(self, start: int, size: int) -> None:
        """Punch a hole, which does not change the size."""
        self.write(start, bytes(max(0, min(size, self.size - start))))

    def resize(self, size: int) -> None:
        if size < self.size:
            for number in [block for block in self._blocks if block * BLOCK >= size]:
                del self._blocks[number]
            last, keep = divmod(size, BLOCK)
            if last in self._blocks:
                self._own(last)[keep:] = bytes(BLOCK - keep)
        self.size = size

    def regions(self) -> list[tuple[int, int]]:
        """Return the bounds of all that may be other than zero, in order."""
        ranges: list[tuple[int, int]] = []
        for number in sorted(self._blocks):
            start, stop = number * BLOCK, min((number + 1) * BLOCK, self.size)
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], stop)
            else:
                ranges.append((start, stop))
        return ranges

    def _own(self, number: int) -> bytearray:
        block = self._blocks.get(number)
        if not isinstance(block, bytearray):
            block = bytearray(BLOCK) if block is None else bytearray(block)
            self._blocks[number] = block
        return block


def _pieces(start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    # Number of the block, where in it, how many bytes.
    while start < stop:
        number, skip = divmod(start, BLOCK)
        length = min(BLOCK - skip, stop - start)
        yield number, skip, length
        start += length
