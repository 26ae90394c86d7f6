"""File maps: the extents of files, each a run of bytes in one chunk.

The extents of a file are in file order and do not overlap; a gap between two is a hole. Neighbours
are never merged, since ingest has cut the file between them. Each operation costs O(log n) in the
length of the map, plus O(1) for each extent that it returns or changes.

Example. A file of 3,000 bytes has the extents (0, chunk 7, 1,000 bytes) and (2,000, chunk 8, 1,000
bytes), with a hole between them. `replace(900, 1,500, [(900, chunk 9, 600 bytes)])` cuts the first
one to 900 bytes and adds the third. Chunk 7 keeps one ref and loses 100 ref bytes; 9 gets one ref.
"""

from collections.abc import Iterable, Iterator, Sequence

from modelfs.store.chunks.table import ChunkTable
from modelfs.store.files.inode_totals import add_to_totals, clear_mapped
from modelfs.store.index.index import Index
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import InodeNumber, Table, pair_key, pair_of


class FileMaps:
    """The extents of every file. A change of them also changes the refs of their chunks."""

    def __init__(self, index: Index, chunks: ChunkTable, length_max: int) -> None:
        """Open the maps of a store, whose extents have `length_max` bytes at most."""
        self._index = index
        self._chunks = chunks
        self._length_max = length_max
        # Unfinished trims: the offset they began at, and the start of the last removed extent.
        self._trims: dict[InodeNumber, tuple[int, int]] = {}

    def overlapping(self, inode: InodeNumber, start: int, stop: int) -> Iterator[Extent]:
        """Yield the whole extents that have a byte in `[start, stop)`, in order."""
        first = self._covering(inode, start)
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

    def following(self, inode: InodeNumber, start: int, limit: int) -> list[Extent]:
        """Return the first `limit` whole extents that have a byte at `start` or behind it."""
        first = self._covering(inode, start)
        found = [] if first is None else [first]
        if len(found) < limit:
            keys = pair_key(inode, start + 1), pair_key(inode + 1, 0)
            rows = self._index.scan(Table.EXTENTS, *keys, limit - len(found))
            found += [Extent.from_bytes(pair_of(key)[1], value) for key, value in rows]
        return found

    def exact(self, inode: InodeNumber, start: int, stop: int) -> Extent | None:
        """Return the extent that is exactly `[start, stop)`, if there is one."""
        value = self._index.get(Table.EXTENTS, pair_key(inode, start))
        if value is None:
            return None
        extent = Extent.from_bytes(start, value)
        return extent if extent.stop == stop else None

    def replace(self, inode: InodeNumber, start: int, stop: int, new: Sequence[Extent]) -> None:
        """Replace everything in `[start, stop)` by `new`; extents at the edges are cut."""
        self._trims.pop(inode, None)
        replaced = list(self.overlapping(inode, start, stop))
        kept = [old.part(old.start, start) for old in replaced if old.start < start]
        kept += [old.part(stop, old.stop) for old in replaced if old.stop > stop]
        for old in replaced:
            self._delete(inode, old)
        for extent in (*kept, *new):
            self._index.put(Table.EXTENTS, pair_key(inode, extent.start), extent.to_bytes())
            self._chunks.add_refs(extent.chunk, 1, extent.length)
        add_to_totals(self._index, inode, mapped=_bytes(kept) + _bytes(new) - _bytes(replaced))

    def trim(self, inode: InodeNumber, start: int, limit: int) -> bool:
        """Remove up to `limit` extents from `start` on.

        Returns:
            Whether no extent is left there. If not, the next call goes on.
        """
        # Go on at the end of the last slice. A scan from `start` would step over all extents that
        # earlier slices removed: they are deletions in the memtable until the next commit.
        at = start
        began, last = self._trims.pop(inode, (None, 0))
        if began == start and self._index.get(Table.EXTENTS, pair_key(inode, last)) is None:
            at = last + 1
        # Otherwise the change of the last slice may have been undone: its extents exist again.
        first = self._covering(inode, start) if at == start else None
        if first is not None and first.start < start:
            self.replace(inode, start, first.stop, ())
        rows = self._index.scan(Table.EXTENTS, pair_key(inode, at), pair_key(inode + 1, 0), limit)
        removed = [Extent.from_bytes(pair_of(key)[1], value) for key, value in rows]
        for extent in removed:
            self._delete(inode, extent)
        if len(rows) < limit and not start:
            clear_mapped(self._index, inode)  # also of extents that the disk has lost
            return True
        add_to_totals(self._index, inode, mapped=-_bytes(removed))
        if len(rows) == limit:
            self._trims[inode] = start, pair_of(rows[-1][0])[1]
        return len(rows) < limit

    def starts(self, inode: InodeNumber, start: int, limit: int) -> tuple[list[int], bool]:
        """Return the starts of the first `limit` extents from `start` on; whether more follow."""
        rows = self._index.scan(
            Table.EXTENTS, pair_key(inode, start), pair_key(inode + 1, 0), limit
        )
        return [pair_of(key)[1] for key, _ in rows], len(rows) == limit

    def _covering(self, inode: InodeNumber, offset: int) -> Extent | None:
        """Return the extent that includes `offset`, None in a hole."""
        low = pair_key(inode, max(0, offset - self._length_max + 1))
        row = self._index.floor(Table.EXTENTS, pair_key(inode, offset), low)
        if row is None:
            return None
        extent = Extent.from_bytes(pair_of(row[0])[1], row[1])
        return extent if extent.stop > offset else None

    def _delete(self, inode: InodeNumber, extent: Extent) -> None:
        self._index.delete(Table.EXTENTS, pair_key(inode, extent.start))
        self._chunks.add_refs(extent.chunk, -1, -extent.length)


def _bytes(extents: Iterable[Extent]) -> int:
    return sum(extent.length for extent in extents)
