"""The extent cache: parts of file maps, joined with the records of their chunks.

Successive reads of a file need the same few rows of the index. So for each of the files read last,
two *sections* of its map are cached, as long as no extent and no chunk record of the store changes:
one for its reader, and one for the read-ahead, which is often past the end of the first. Without
this cache, planning a read of 1 MiB took as long as copying its bytes.

Example. A file has extents of 1 MiB. A read of 128 KiB at 70 MiB loads the section from there to
134 MiB: 64 extents and their chunks' records. The next 511 sequential reads find it. When ingest
changes any map, the versions of the tables change, and the next read loads a section once more.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from modelfs.errors import CorruptIndex
from modelfs.fork_lock import fork_lock
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.files.complete_maps import CompleteMaps
from modelfs.store.files.filemap import FileMaps
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.index import Index
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import InodeNumber, Table

# A section ends after so many bytes, or after so many extents if these end earlier.
SECTION_BYTES: Final = 64 << 20
SECTION_EXTENTS: Final = 64
SECTIONS_OF_FILE: Final = 2
FILES_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class _Section:
    """The map of a file from `start` to `stop`."""

    start: int
    stop: int
    version: tuple[int, int]  # of the tables it was loaded from
    extents: list[tuple[Extent, Chunk | CorruptIndex]]

    def covers(self, start: int, stop: int, version: tuple[int, int]) -> bool:
        """Whether the range `[start, stop)` is in it, as the tables have it."""
        return self.version == version and self.start <= start <= stop <= self.stop


class ExtentCache:
    """Finds the extents of file ranges, with their chunks' records. Any thread.

    `complete_maps` checks that no extent is missing where `find` finds none.
    """

    def __init__(self, index: Index, maps: FileMaps, chunks: ChunkTable) -> None:
        self.complete_maps = CompleteMaps(index)
        self._index = index
        self._maps = maps
        self._chunks = chunks
        self._sections: OrderedDict[InodeNumber, list[_Section]] = OrderedDict()
        self._lock = fork_lock()

    def clear(self) -> None:
        """Drop all sections, those that threads are loading, and the checks of maps."""
        self.complete_maps.clear()
        self._sections = OrderedDict()

    def find(self, inode: InodeNumber, start: int, stop: int) -> Iterator[tuple[Extent, Chunk]]:
        """Yield the extents inside `[start, stop)`, clipped to it, with their chunks' records.

        Raises:
            CorruptIndex: a chunk's record is missing or damaged, or an extent reaches past the end
                of its chunk.
        """
        extents = self._section(inode, start, stop).extents
        first = bisect_right(extents, start, key=lambda pair: pair[0].stop)
        for extent, record in islice(extents, first, None):
            if extent.start >= stop:
                return
            if isinstance(record, CorruptIndex):
                raise CorruptIndex(*record.args)  # a copy, since a raised exception is changed
            yield extent.part(start, stop), record

    def reach(self, inode: InodeNumber, start: int) -> int:
        """Return the number of bytes from `start` to the end of the section there."""
        return self._section(inode, start, start + 1).stop - start

    def _section(self, inode: InodeNumber, start: int, stop: int) -> _Section:
        """Return a section of a file's map that covers `[start, stop)`."""
        version = self._index.version(Table.EXTENTS), self._index.version(Table.CHUNKS)
        files = self._sections
        with self._lock:
            sections = files.get(inode, [])
            if sections:
                files.move_to_end(inode)
        for section in sections:
            if section.covers(start, stop, version):
                return section
        loaded = self._load(inode, start, stop, version)
        with self._lock:
            sections = files.pop(inode, [])
            files[inode] = [loaded, *sections[: SECTIONS_OF_FILE - 1]]
            if len(files) > FILES_MAX:
                files.popitem(last=False)
        return loaded

    def _load(
        self, inode: InodeNumber, start: int, stop: int, version: tuple[int, int]
    ) -> _Section:
        end = max(stop, start + SECTION_BYTES)
        extents: list[tuple[Extent, Chunk | CorruptIndex]] = []
        for extent in self._maps.overlapping(inode, start, end):
            if len(extents) >= SECTION_EXTENTS and extent.start >= stop:
                end = extent.start
                break
            extents.append((extent, self._record(inode, extent)))
        return _Section(start, end, version, extents)

    def _record(self, inode: InodeNumber, extent: Extent) -> Chunk | CorruptIndex:
        """Return the record of an extent's chunk, or the error that `find` raises at the extent.

        Not raised here, so that reads of the extents beside it succeed.
        """
        try:
            record = self._chunks.record(extent.chunk)
        except CorruptIndex as exc:
            return exc
        # Bytes of a pack behind a plain chunk belong to another chunk, and may be verified for it.
        size = record.stored if record.kind is ChunkKind.PLAIN else record.size
        if extent.skip + extent.length > size:
            place = f"extent at {extent.start} of inode {inode}"
            return CorruptIndex(f"{place} reaches past the end of chunk {extent.chunk}")
        return record
