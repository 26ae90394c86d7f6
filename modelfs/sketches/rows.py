"""The rows of a tensor with the smallest hashes, by which tensors with common rows are found.

Of two tensors that have rows in common, the rows with the smallest hashes of one are likely to be
among those of the other (bottom-k sketches and containment: Broder, "On the resemblance and
containment of documents", 1997). A row has the shape's last axes, as many as make 64 bytes or more;
a vector has a window of 64 bytes at each of its elements. The order is that of a hash of a few
words of each row, so that of most rows only these words are read.

Example. An F32 tensor of 30522 x 384 has rows of 1536 bytes. A copy of it with 200 more rows keeps
24 rows, too: those of the first tensor, unless one of the 200 has one of the 24 smallest hashes of
30,722, as 0.16 of them have on average.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np
import xxhash
from numpy.typing import NDArray

WINDOW: Final = 64
ROW_MAX: Final = 1 << 20
# Vectors are kept as a whole until their end, so vectors longer than any model's are skipped.
VECTOR_MAX: Final = 256 << 10
KEPT: Final = 24
_WORDS: Final = 4
# Odd numbers without a pattern (the fractions of square roots of primes, as in SHA-512), then the
# finalizer of MurmurHash3, which lets every bit matter to every other.
_FACTORS: Final = (0x6A09E667F3BCC909, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B, 0xA54FF53A5F1D36F1)
_FINAL: Final = (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53)


def row_size(shape: tuple[int, ...], width: int, size: int) -> int:
    """Return the bytes of a row; 0 if there are no rows, or if the shape does not fit the size."""
    row = width
    for axis in range(len(shape) - 1, 0, -1):
        row *= shape[axis]
        if row >= WINDOW:
            return row if row <= ROW_MAX and size % row == 0 and size > row else 0
    return 0


class Rows:
    """Collects the rows with the smallest hashes from content that is fed in order."""

    def __init__(self, shape: tuple[int, ...], width: int, size: int) -> None:
        self._row = row_size(shape, width, size)
        self._width = width
        self._is_vector = not self._row and size <= VECTOR_MAX
        self._partial = bytearray()  # the beginning of a row that is not complete; of a vector, all
        self._at = 0  # the offset of `_partial` in the tensor
        self._kept: dict[int, tuple[int, int]] = {}  # by hash of some words: key, offset
        self._highest = (1 << 64) - 1

    def feed(self, content: memoryview) -> None:
        """Read the next bytes."""
        if self._is_vector:
            self._partial += content
            return
        if not self._row:
            return
        if self._partial:
            lacking = self._row - len(self._partial)
            self._partial += content[:lacking]
            content = content[lacking:]
            if len(self._partial) == self._row:
                self._scan(memoryview(bytes(self._partial)), self._row)
                self._partial.clear()
        whole = len(content) // self._row * self._row
        self._scan(content[:whole], self._row)
        self._partial += content[whole:]

    def smallest(self) -> Iterator[tuple[int, int]]:
        """Yield key and offset of the rows with the smallest hashes, in the order of those."""
        if self._is_vector:
            self._scan(memoryview(bytes(self._partial)), self._width)
            self._is_vector = False
        return (self._kept[order] for order in sorted(self._kept))

    def _scan(self, content: memoryview, step: int) -> None:
        length = self._row or WINDOW
        count = (len(content) - length) // step + 1
        if count <= 0:
            return
        hashes, usable = _hashes(content, count, length, step)
        candidates = np.flatnonzero(usable & (hashes < self._highest))
        smallest, first = np.unique(hashes[candidates], return_index=True)
        for order, row in zip(smallest[:KEPT].tolist(), candidates[first[:KEPT]], strict=True):
            if order in self._kept:
                continue  # an equal row is kept already
            start = int(row) * step
            key = xxhash.xxh3_64_intdigest(content[start : start + length], length)
            self._kept[order] = key, self._at + start
            if len(self._kept) > KEPT:
                del self._kept[max(self._kept)]
            if len(self._kept) == KEPT:
                self._highest = max(self._kept)
        self._at += count * step


def _hashes(
    content: memoryview, count: int, length: int, step: int
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return the hash of each row, and whether its words differ: those of constant rows do not."""
    # At multiples of 8, so that all words of a constant row are the same.
    offsets = [(length - 8) * number // (8 * (_WORDS - 1)) * 8 for number in range(_WORDS)]
    words = [
        np.ndarray((count,), "<u8", content, offset, (step,)).astype(np.uint64)
        for offset in offsets
    ]
    mixed = np.zeros(count, np.uint64)
    for word, factor in zip(words, _FACTORS, strict=True):
        mixed ^= mixed >> np.uint64(29)
        mixed += word
        mixed *= np.uint64(factor)
    for factor in _FINAL:
        mixed ^= mixed >> np.uint64(33)
        mixed *= np.uint64(factor)
    usable = (words[0] != words[1]) | (words[1] != words[2]) | (words[2] != words[3])
    return mixed ^ (mixed >> np.uint64(33)), usable
