"""Base-only chunks: those that no file uses, and that stay because other chunks derive from them.

Such a chunk is freed by encoding its dependants without it. Of several dependants one becomes the
base of the others, so that the store gets smaller by about the stored bytes of one of them. If the
dependants would take more without the chunk, it is kept: its row has a mark, and it is no garbage
until it has more or fewer dependants.

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
from modelfs.store.index.tables import KEPT, ChunkId, Table, number_of

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

    def chunks(self, *, with_kept: bool) -> Iterator[tuple[ChunkId, Chunk]]:
        """Yield the base-only chunks, except damaged ones; without the kept ones, the garbage."""
        for key, value in self._index.pages(Table.BASE_ONLY, damaged=set()):
            if value == KEPT and not with_kept:
                continue
            chunk = ChunkId(number_of(key))
            try:
                record = self._chunks.find(chunk)
            except CorruptIndex:
                continue
            if record is not None and record.base_only:
                yield chunk, record

    def estimate(self) -> tuple[int, int]:
        """Return how many chunks are garbage, and about how many bytes their removal frees."""
        garbage = self.chunks(with_kept=False)
        gains = [self._gain(chunk, record) for chunk, record in islice(garbage, ESTIMATED)]
        more = sum(1 for _ in garbage)
        mean = sum(gains) / max(1, len(gains))
        return len(gains) + more, sum(gains) + int(more * mean)

    def _gain(self, chunk: ChunkId, record: Chunk) -> int:
        """Return about how many bytes the removal of a chunk frees; 0 if rows of it are damaged."""
        try:
            return max(0, record.stored - self._growth(chunk, record))
        except CorruptIndex:
            return 0

    def _growth(self, chunk: ChunkId, record: Chunk) -> int:
        """Return about how many bytes more the dependants of a chunk take without it.

        Raises:
            CorruptIndex: a row of one of them is damaged.
        """
        total = 0
        # Of dependants alike, one gets a form of its own, and the others become deltas to it: by
        # sources, element and size, as the jobs that free bases group them.
        heads: set[tuple[int, ...]] = set()
        dependants = self._chunks.lineage.dependants(chunk)
        for other in islice(dependants, ESTIMATED_DEPENDANTS):
            dependant = self._chunks.record(other)
            sources = self._chunks.lineage.sources(other)
            head = (*sources, dependant.element, dependant.size)
            if not dependant.refs or head in heads:
                continue
            heads.add(head)
            part = record.stored / max(1, record.size)
            if record.kind is ChunkKind.DERIVED:
                part = ALONE_PART
            growth = max(0, int(min(1.0, part) * dependant.size) - dependant.stored)
            total += growth // max(1, len(sources))
        return total
