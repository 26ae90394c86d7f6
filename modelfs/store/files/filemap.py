"""File maps: which chunk holds which bytes of a file.

A map is a run of extents in file order that do not overlap; what lies between them is a hole. Two
neighbours never need to be merged, since each is one piece of the cut. Everything here costs
O(log n) in the length of the map, plus what it returns or changes.
"""

from collections.abc import Iterator, Sequence

from modelfs.store.chunks.table import ChunkTable
from modelfs.store.index.index import Index
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import InodeNumber, Table, pair_key, pair_of


class FileMaps:
    """The extents of every file, and with them the chunks' use counts."""

    def __init__(self, index: Index, chunks: ChunkTable, longest: int) -> None:
        self._index = index
        self._chunks = chunks
        self._longest = longest
        # Of trims under way: from where on, and the last extent that is gone.
        self._trimmed: dict[InodeNumber, tuple[int, int]] = {}

    def overlapping(self, inode: InodeNumber, start: int, stop: int) -> Iterator[Extent]:
        """Yield the whole extents that have a byte in `[start, stop)`, in order."""
        first = self._holding(inode, start)
        if first is not None and first.start < stop:
            yield first
        rows = self._index.pages(
            Table.EXTENTS, pair_key(inode, start + 1), pair_key(inode, max(stop, start + 1))
        )
        for key, value in rows:
            yield Extent.from_bytes(pair_of(key)[1], value)

    def within(self, inode: InodeNumber, start: int, stop: int) -> Iterator[Extent]:
        """Yield the parts of extents inside `[start, stop)`, in order."""
        for extent in self.overlapping(inode, start, stop):
            yield extent.part(start, stop)

    def exact(self, inode: InodeNumber, start: int, stop: int) -> Extent | None:
        """Return the extent that is exactly `[start, stop)`, if there is one."""
        value = self._index.get(Table.EXTENTS, pair_key(inode, start))
        if value is None:
            return None
        extent = Extent.from_bytes(start, value)
        return extent if extent.stop == stop else None

    def replace(self, inode: InodeNumber, start: int, stop: int, new: Sequence[Extent]) -> None:
        """Let `new` stand for everything in `[start, stop)`; extents at its edges are cut."""
        self._trimmed.pop(inode, None)
        for old in list(self.overlapping(inode, start, stop)):
            self._delete(inode, old)
            if old.start < start:
                self._put(inode, old.part(old.start, start))
            if old.stop > stop:
                self._put(inode, old.part(stop, old.stop))
        for extent in new:
            self._put(inode, extent)

    def trim(self, inode: InodeNumber, start: int, limit: int) -> bool:
        """Remove up to `limit` extents from `start` on; say whether none is left there.

        Each slice goes on where the last one ended, since stepping over what those removed would
        cost more and more.
        """
        at = self._trimmed_to(inode, start)
        first = self._holding(inode, start) if at == start else None
        if first is not None and first.start < start:
            self._delete(inode, first)
            self._put(inode, first.part(first.start, start))
        rows = self._index.scan(Table.EXTENTS, pair_key(inode, at), pair_key(inode + 1, 0), limit)
        for key, value in rows:
            self._delete(inode, Extent.from_bytes(pair_of(key)[1], value))
        if len(rows) == limit:
            self._trimmed[inode] = start, pair_of(rows[-1][0])[1]
        return len(rows) < limit

    def _trimmed_to(self, inode: InodeNumber, start: int) -> int:
        began, last = self._trimmed.pop(inode, (None, 0))
        # If the change was taken back that the last slice was part of, its extents are here again.
        if began != start or self._index.get(Table.EXTENTS, pair_key(inode, last)) is not None:
            return start
        return last + 1

    def starts(self, inode: InodeNumber, start: int, limit: int) -> tuple[list[int], bool]:
        """Return where the first `limit` extents from `start` on begin, and whether more follow."""
        rows = self._index.scan(
            Table.EXTENTS, pair_key(inode, start), pair_key(inode + 1, 0), limit
        )
        return [pair_of(key)[1] for key, _ in rows], len(rows) == limit

    def _holding(self, inode: InodeNumber, offset: int) -> Extent | None:
        # The extent whose bytes include `offset`.
        low = pair_key(inode, max(0, offset - self._longest + 1))
        row = self._index.floor(Table.EXTENTS, pair_key(inode, offset), low)
        if row is None:
            return None
        extent = Extent.from_bytes(pair_of(row[0])[1], row[1])
        return extent if extent.stop > offset else None

    def _put(self, inode: InodeNumber, extent: Extent) -> None:
        self._index.put(Table.EXTENTS, pair_key(inode, extent.start), extent.to_bytes())
        self._chunks.add_refs(extent.chunk, 1, extent.length)

    def _delete(self, inode: InodeNumber, extent: Extent) -> None:
        self._index.delete(Table.EXTENTS, pair_key(inode, extent.start))
        self._chunks.add_refs(extent.chunk, -1, -extent.length)
