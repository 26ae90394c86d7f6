"""Base-only chunks: those that no file uses, and that stay because other chunks derive from them.

Such a chunk is freed by encoding its dependants without it. Of several dependants one becomes the
base of the others, so that the store gets smaller by about the stored bytes of one of them. If they
are many, their deltas to the new base may take much more than the old base did. Then it is worth
keeping: it is no garbage, and stays until one of its dependants goes.

Example. base.safetensors is removed. Its chunk 3 takes 900 KiB, and chunks 7 and 8 are deltas to it
of 300 KiB. Chunk 7 alone would take about 900 KiB, and 8 derives from it then: freeing chunk 3
gains 900 - (900 - 300) = 300 KiB.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from modelfs.errors import CorruptIndex
from modelfs.store.chunks.table import ChunkTable
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.index import Index
from modelfs.store.index.tables import ChunkId, Table, number_of

# An estimate looks at so many chunks, and so many dependants of each. More are taken to be alike.
ESTIMATED: Final = 5000
ESTIMATED_DEPENDANTS: Final = 64
# The size of a dependant that is encoded alone, as a part of its content, if its base is derived.
ALONE_PART: Final = 0.8


class BaseOnly:
    """The base-only chunks of a store. Any thread."""

    def __init__(self, index: Index, chunks: ChunkTable) -> None:
        self._index = index
        self._chunks = chunks
        # Chunks worth keeping, with the number of their dependants when that was found.
        self._kept: dict[ChunkId, int] = {}

    def keep(self, chunk: ChunkId, dependants: int) -> None:
        """Note that a chunk is worth keeping as long as it has so many dependants."""
        self._kept[chunk] = dependants

    def garbage(self) -> Iterator[tuple[ChunkId, Chunk]]:
        """Yield the base-only chunks that are not worth keeping, except damaged ones."""
        for key, _ in self._index.pages(Table.BASE_ONLY):
            chunk = ChunkId(number_of(key))
            try:
                record = self._chunks.find(chunk)
            except CorruptIndex:
                continue
            if record is None or not record.base_only:
                continue
            if self._kept.get(chunk) != record.dependants:
                yield chunk, record

    def estimate(self) -> tuple[int, int]:
        """Return how many chunks are garbage, and about how many bytes their removal frees."""
        garbage = self.garbage()
        gains = [self._gain(chunk, record) for chunk, record in islice(garbage, ESTIMATED)]
        more = sum(1 for _ in garbage)
        mean = sum(gains) / max(1, len(gains))
        return len(gains) + more, sum(gains) + int(more * mean)

    def _gain(self, chunk: ChunkId, record: Chunk) -> int:
        """Return about how many bytes the removal of a chunk frees."""
        gain = record.stored
        heads: set[tuple[int, int]] = set()  # element and size: as `rebase_dependants` groups them
        dependants = self._chunks.lineage.dependants(chunk)
        for other in islice(dependants, ESTIMATED_DEPENDANTS):
            try:
                dependant = self._chunks.record(other)
            except CorruptIndex:
                return 0
            head = dependant.element, dependant.size
            if not dependant.refs or head in heads:
                continue
            heads.add(head)
            part = record.stored / max(1, record.size)
            if record.kind is ChunkKind.DERIVED:
                part = ALONE_PART
            growth = max(0, int(min(1.0, part) * dependant.size) - dependant.stored)
            gain -= growth // max(1, len(self._chunks.lineage.sources(other)))
        return max(0, gain)
