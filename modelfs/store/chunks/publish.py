"""Publish: what a `ChunkWriter` stored comes into the index.

A writer appends to packs and syncs them on any thread; the index knows nothing of it until the
owner publishes the result. The first slice records how far the packs reach and which chunk numbers
are taken, for all of it; each slice then adds new chunks, and moves those that were copied or
re-encoded. A crash between two slices leaves bytes in packs that no chunk record names: gc reclaims
them.

A chunk that was added is dead until an extent points to it, so a result is published before the
map changes that point there.
"""

from collections.abc import Callable, Iterator
from typing import Final

from modelfs.store.chunks.table import ChunkTable
from modelfs.store.chunks.writer import WriteResult
from modelfs.store.index.counters import NEXT_CHUNK, NEXT_PACK, Counters
from modelfs.store.index.index import Index
from modelfs.store.index.records import Chunk, PackRow
from modelfs.store.index.tables import ChunkId
from modelfs.store.packs.pack import Packs

# Records changed in one go, so that no request waits long: chunks, and the sources of derived ones.
SLICE: Final = 200

StillValid = Callable[[ChunkId, Chunk], bool]


class Publisher:
    """Puts what writers stored into the index."""

    def __init__(self, index: Index, counters: Counters, chunks: ChunkTable, packs: Packs) -> None:
        self._index = index
        self._counters = counters
        self._chunks = chunks
        self._packs = packs

    def publish(self, result: WriteResult, still_valid: StillValid | None = None) -> Iterator[None]:
        """Put a writer's result into the index, a slice at a time; yields between two slices.

        Args:
            result: of `ChunkWriter.finish`, so that its bytes are durable.
            still_valid: says of a moved chunk, given its new record, whether nothing else changed
                it since the writer read it. By default every chunk that is still known is moved.
        """
        for number, chunks in enumerate(_slices(result)):
            if number:
                yield
            with self._index.change():
                if not number:
                    self._record_packs(result)
                for chunk in chunks:
                    self._publish_one(result, chunk, still_valid)
            if not number:
                self._packs.published()

    def _record_packs(self, result: WriteResult) -> None:
        for tail in result.tails:
            row = self._chunks.pack_row(tail.pack)
            self._chunks.put_pack_row(tail.pack, PackRow(tail.stop, row.live))
            if tail.pack >= self._counters.get(NEXT_PACK):
                self._counters.set(NEXT_PACK, tail.pack + 1)
        if result.added:
            self._counters.set(NEXT_CHUNK, max(result.added) + 1)

    def _publish_one(
        self, result: WriteResult, chunk: ChunkId, still_valid: StillValid | None
    ) -> None:
        if (record := result.added.get(chunk)) is not None:
            self._chunks.add(chunk, record)
            return
        record = result.moved[chunk]
        if self._chunks.find(chunk) is not None and (
            still_valid is None or still_valid(chunk, record)
        ):
            self._chunks.move(chunk, record, result.sources.get(chunk))


def _slices(result: WriteResult) -> Iterator[list[ChunkId]]:
    # At least one, maybe an empty one: it has the packs' ends.
    chunks: list[ChunkId] = []
    cost = 0
    for chunk in (*result.added, *result.moved):
        if cost >= SLICE:
            yield chunks
            chunks, cost = [], 0
        chunks.append(chunk)
        cost += 1 + len(result.sources.get(chunk, ()))
    yield chunks
