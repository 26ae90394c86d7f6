"""Holes of files: where their data begin, and where they end, as of lseek(2).

A byte is data if it is staged, or in an extent that no truncation hides. Bytes of data may be
zeros. A search takes steps of a bounded number of extents and ranges, since a file may have 10^5.

Example. A file of 300 bytes has an extent from 0 to 100, and 50 bytes are staged at 200. From 10 on
data are at 10 and a hole is at 100; from 100 on data are at 200; from 200 on a hole is at 250, and
from 250 on there are no data. The end of the file, at 300, counts as a hole.
"""

from collections.abc import Generator
from heapq import merge
from itertools import islice
from typing import Final

from modelfs.store.files.complete_maps import CompleteMaps
from modelfs.store.files.content import Contents
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.staging import Staging
from modelfs.store.index.tables import InodeNumber

# Extents, and staged ranges, of the first step of a search, and of a long one, which takes some
# 3 ms. Not many at first, as a sparse file may have a hole behind each of them.
STEP_FIRST: Final = 8
STEP_MAX: Final = 512


class Holes:
    """Finds data and holes of files."""

    def __init__(
        self, contents: Contents, staging: Staging, maps: FileMaps, complete_maps: CompleteMaps
    ) -> None:
        self._contents = contents
        self._staging = staging
        self._maps = maps
        self._complete_maps = complete_maps

    def are_known(self, inode: InodeNumber) -> bool:
        """Whether no extents of a file are missing, as far as is known without `check`."""
        return self._complete_maps.trusts(inode)

    def check(self, inode: InodeNumber) -> None:
        """Check that no extents of a file are missing, as a hole could be such a place. Any thread.

        Raises:
            CorruptIndex: extents are missing.
        """
        self._complete_maps.check(inode)

    def next_data(self, inode: InodeNumber, offset: int) -> int | None:
        """Return the first offset with data, from an offset on; None if only a hole follows.

        Raises:
            NotFound: there is no such inode.
            CorruptIndex: the file's map is damaged.
        """
        ranges, _ = self._data(inode, offset, 1)
        return max(offset, ranges[0][0]) if ranges else None

    def next_hole(self, inode: InodeNumber, offset: int) -> Generator[None, None, int]:
        """Return the first offset in a hole, from an offset in the file on. Raises as `next_data`.

        Yields after each step but the last. The file may change between two steps.
        """
        node = self._contents.node(inode)
        if self._staging.find(inode) is None and node.mapped == node.size:
            return node.size
        at, limit = offset, STEP_FIRST
        while True:
            ranges, known_to = self._data(inode, at, limit)
            at = _end_of_data(ranges, at)
            if at < known_to or at >= self._contents.node(inode).size:
                return at
            yield
            limit = min(2 * limit, STEP_MAX)

    def _data(
        self, inode: InodeNumber, start: int, limit: int
    ) -> tuple[list[tuple[int, int]], int]:
        """Return the first ranges of data from an offset on, by their starts.

        Args:
            inode: of the file.
            start: the offset.
            limit: of the ranges that are staged, and of those that are mapped.

        Returns:
            The ranges, and the offset up to which there are no others.
        """
        size = visible_to = self._contents.node(inode).size
        written: list[tuple[int, int]] = []
        if (staged := self._staging.find(inode)) is not None:
            visible_to = staged.map_end(size)
            written = [part[1:] for part in islice(staged.within(start, size), limit)]
        extents = self._maps.following(inode, start, limit)
        mapped = [(each.start, min(each.stop, visible_to)) for each in extents]
        mapped = [(low, high) for low, high in mapped if max(low, start) < high]
        ends = [ranges[-1][1] for ranges in (mapped, written) if len(ranges) == limit]
        return list(merge(mapped, written)), min(ends, default=size)


def _end_of_data(ranges: list[tuple[int, int]], start: int) -> int:
    """Return the end of the data that begin at an offset or before; the offset if none do."""
    for low, high in ranges:
        if low > start:
            break
        start = max(start, high)
    return start
