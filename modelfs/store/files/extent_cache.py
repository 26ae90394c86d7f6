"""Where the bytes of a file are: extents joined with the records of their chunks.

Reads of a file follow one another, and each asks for the same few rows of the index around it. So
a stretch of the map is kept for the files read last, for as long as no extent and no chunk of the
store changes. Without it, finding a 1 MiB read's bytes took as long as copying them.
"""

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from modelfs.errors import CorruptIndex
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.files.filemap import FileMaps
from modelfs.store.index.index import Index
from modelfs.store.index.records import Chunk, ChunkKind, Extent
from modelfs.store.index.tables import InodeNumber, Table

Located = tuple[Extent, Chunk]
_Kept = tuple[Extent, Chunk | CorruptIndex]

STRETCH_EXTENTS: Final = 64
STRETCH_BYTES: Final = 64 << 20
FILES_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class _CachedExtents:
    start: int
    stop: int
    version: tuple[int, int]
    located: list[_Kept]


class ExtentCache:
    """Finds the chunks of file ranges. Any thread may ask."""

    def __init__(self, index: Index, maps: FileMaps, chunks: ChunkTable) -> None:
        self._index = index
        self._maps = maps
        self._chunks = chunks
        self._kept: OrderedDict[InodeNumber, _CachedExtents] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, inode: InodeNumber, start: int, stop: int) -> Iterator[Located]:
        """Yield the extents inside `[start, stop)`, clipped to it, with their chunks' records.

        Raises:
            CorruptIndex: one of these chunks has no record that can be read.
        """
        located = self._stretch(inode, start, stop).located
        first = bisect_right(located, start, key=lambda each: each[0].stop)
        for extent, record in islice(located, first, None):
            if extent.start >= stop:
                return
            if isinstance(record, CorruptIndex):
                raise CorruptIndex(*record.args)  # anew: each has its own traceback
            yield extent.part(start, stop), record

    def reach(self, inode: InodeNumber, start: int) -> int:
        """Return how many bytes from `start` on are found at little cost, however they are cut."""
        return self._stretch(inode, start, start + 1).stop - start

    def _stretch(self, inode: InodeNumber, start: int, stop: int) -> _CachedExtents:
        version = self._version()
        with self._lock:
            kept = self._kept.get(inode)
        if kept is None or kept.version != version or not kept.start <= start <= stop <= kept.stop:
            kept = self._load(inode, start, stop, version)
        with self._lock:
            self._kept[inode] = kept
            self._kept.move_to_end(inode)
            if len(self._kept) > FILES_MAX:
                self._kept.popitem(last=False)
        return kept

    def _load(
        self, inode: InodeNumber, start: int, stop: int, version: tuple[int, int]
    ) -> _CachedExtents:
        end = max(stop, start + STRETCH_BYTES)
        located: list[_Kept] = []
        for extent in self._maps.overlapping(inode, start, end):
            if len(located) >= STRETCH_EXTENTS and extent.start >= stop:
                end = extent.start
                break
            located.append((extent, self._record(inode, extent)))
        return _CachedExtents(start, end, version, located)

    def _record(self, inode: InodeNumber, extent: Extent) -> Chunk | CorruptIndex:
        # The neighbours of a damaged record are read all the same.
        try:
            record = self._chunks.record(extent.chunk)
            _check_inside(inode, extent, record)
        except CorruptIndex as exc:
            return exc
        return record

    def _version(self) -> tuple[int, int]:
        return self._index.version(Table.EXTENTS), self._index.version(Table.CHUNKS)


def _check_inside(inode: InodeNumber, extent: Extent, record: Chunk) -> None:
    # Behind a plain chunk's bytes in a pack lie another's: they were verified for that other one.
    size = record.stored if record.kind is ChunkKind.PLAIN else record.size
    if extent.skip + extent.length > size:
        place = f"extent at {extent.start} of inode {inode}"
        raise CorruptIndex(f"{place} reaches past the end of chunk {extent.chunk}")
