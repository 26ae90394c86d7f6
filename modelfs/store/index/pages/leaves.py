"""A quick check of many leaf pages at a time: which ones `layout.nodes_of` has to look at.

Each step handles the same field of all pages, or of all their nodes, as an array. At 10^6 chunks
the leaves have some 4 million nodes; one after the other they would take half a minute. A page that
is not suspect is one that `nodes_of` accepts, and its keys ascend. Pages with keys that have the
first 32 bytes in common are suspect, too: their order is not looked at here.

Example. Two pages of 4,096 bytes; page 7 is a leaf of 20 nodes, and of page 8, with 30, the flags
are damaged. `page_of` is 20 times 0: page 8 is suspect already, and none of its nodes is read. The
keys of page 7 are 20 rows of four numbers of 64 bits, each of which must be larger than the last.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from modelfs.store.index.pages.layout import BIG, KEY_BYTES_MAX, LEAF, NODE_HEAD, PAGE_HEAD

Array = np.ndarray[Any, np.dtype[Any]]

# Numbers of 64 bits by which keys are compared.
COLUMNS: Final = 4
# Behind the last page of a buffer: keys are read `COLUMNS` numbers at a time.
PADDING: Final = 8 * (COLUMNS + 1)


class Leaves:
    """Leaf pages in a buffer, and the nodes of those that are not suspect."""

    def __init__(self, buffer: bytearray, numbers: Array, page_size: int) -> None:
        """Look at pages.

        Args:
            buffer: the pages, and `PADDING` more bytes.
            numbers: of the pages, in the order of the buffer.
            page_size: bytes of each.
        """
        self._page_size = page_size
        self._halves = np.frombuffer(buffer, "<u2", len(numbers) * page_size // 2)
        heads = self._halves.reshape(len(numbers), -1)
        found = np.ascontiguousarray(heads[:, :4]).view("<u8")[:, 0]
        flags, lower, upper = (heads[:, at].astype(np.int64) for at in (5, 6, 7))
        self.suspect: Array = (
            (found != numbers)
            | (flags != LEAF)
            | (lower % 2 != 0)
            | (lower <= PAGE_HEAD.size)
            | (lower > upper)
            | (upper > page_size)
        )
        self.counts: Array = np.where(self.suspect, 0, (lower - PAGE_HEAD.size) // 2)
        self._read_nodes(buffer, upper)

    def _read_nodes(self, buffer: bytearray, upper: Array) -> None:
        size = self._page_size
        page_of = np.repeat(np.arange(len(upper)), self.counts)
        slots = np.arange(len(page_of)) - np.repeat(
            np.cumsum(self.counts) - self.counts, self.counts
        )
        offsets = self._halves[page_of * (size // 2) + PAGE_HEAD.size // 2 + slots].astype(np.int64)
        bad = (offsets < upper[page_of]) | (offsets > size - NODE_HEAD.size)
        starts = page_of * size + np.where(bad, PAGE_HEAD.size, offsets)
        heads = _numbers_at(buffer, "<u8", starts)
        flags = (heads >> np.uint64(32)) & np.uint64(0xFFFF)
        key_sizes = (heads >> np.uint64(48)).astype(np.int64)
        is_big = flags == BIG
        sizes = NODE_HEAD.size + key_sizes
        sizes += np.where(is_big, 8, (heads & np.uint64(0xFFFFFFFF)).astype(np.int64))
        sizes += sizes % 2
        bad |= (flags > BIG) | (key_sizes == 0) | (key_sizes > KEY_BYTES_MAX)
        bad |= offsets + sizes > size
        bad |= ~_fills(page_of, starts, sizes, upper, size)
        bad |= ~_ascends(buffer, page_of, starts + NODE_HEAD.size, key_sizes)
        self.suspect[page_of[bad]] = True
        self._page_of, self._starts, self._key_sizes, self._is_big = (
            page_of,
            starts,
            key_sizes,
            is_big,
        )

    def bounds(self, buffer: bytearray) -> Iterator[tuple[bytes, bytes]]:
        """Yield the first and the last key of each page; empty ones of a suspect page."""
        lasts = np.cumsum(self.counts)
        for suspect, first, stop in zip(
            self.suspect.tolist(), (lasts - self.counts).tolist(), lasts.tolist(), strict=True
        ):
            if suspect:
                yield b"", b""
            else:
                yield self._key(buffer, first), self._key(buffer, stop - 1)

    def _key(self, buffer: bytearray, node: int) -> bytes:
        start = int(self._starts[node]) + NODE_HEAD.size
        return bytes(buffer[start : start + int(self._key_sizes[node])])

    def has_big(self) -> Array:
        """Return which pages have nodes with overflow pages."""
        found = np.zeros(len(self.suspect), bool)
        found[self._page_of[self._is_big]] = True
        return found


def _numbers_at(buffer: bytearray, kind: str, starts: Array) -> Array:
    """Return the numbers of 64 bits at any offsets of a buffer."""
    every = np.ndarray((len(buffer) - 7,), kind, buffer, strides=(1,))
    return every[starts].astype(np.uint64)


def _fills(page_of: Array, starts: Array, sizes: Array, upper: Array, page_size: int) -> Array:
    """Return of each node whether it ends where another begins, or its page ends."""
    order = np.argsort(starts, kind="stable")
    pages, begins = page_of[order], starts[order]
    ends = begins + sizes[order]
    # The last node of a page ends with it, and the first begins at `upper`.
    wanted = np.where(pages[1:] == pages[:-1], begins[1:], (pages[:-1] + 1) * page_size)
    right = np.ones(len(order), bool)
    right[:-1] = ends[:-1] == wanted
    if len(order):
        right[-1] = ends[-1] == (pages[-1] + 1) * page_size
        is_first = np.ones(len(order), bool)
        is_first[1:] = pages[1:] != pages[:-1]
        right &= ~is_first | (begins == pages * page_size + upper[pages])
    result = np.empty(len(order), bool)
    result[order] = right
    return result


def _ascends(buffer: bytearray, page_of: Array, keys: Array, sizes: Array) -> Array:
    """Return of each node whether its key is above that of the node before it in the page."""
    rises = np.zeros(max(0, len(keys) - 1), bool)
    equal = ~rises
    for column in range(COLUMNS):
        length = np.clip(sizes - 8 * column, 0, 8)
        at = np.minimum(keys + 8 * column, len(buffer) - 8)
        unused = np.minimum(64 - 8 * length, 63).astype(np.uint64)
        part = (_numbers_at(buffer, ">u8", at) >> unused) << unused
        part[length == 0] = 0
        rises |= equal & (part[1:] > part[:-1])
        equal &= part[1:] == part[:-1]
    # Of keys that are equal this far, one may be longer by zeros: `nodes_of` has to look.
    right = np.ones(len(keys), bool)
    right[1:] = rises | (page_of[1:] != page_of[:-1])
    return right
