"""Publish: the result of a `ChunkWriter` enters the index.

A writer appends to packs and syncs them on any thread. The index has none of it until the owner
publishes the result, a slice at a time. The first slice records the new ends of the packs and the
next free chunk number, for the whole result. Each slice then adds new chunks, and moves chunks that
were copied or re-encoded. A crash between two slices leaves bytes in packs that no chunk record
names; gc reclaims them.

A new chunk is dead until an extent refers to it, so a result is published before the map changes
that refer to its chunks.

Example. A writer appended 500 new chunks to pack 5, which ends at 200 MiB now. The first slice
records this end and adds 200 chunks, the second one 200, the third one 100; other requests, and a
commit, may come in between. After a commit behind the second slice and a crash, the last 100 chunks
lie unused in pack 5.
"""

from collections.abc import Callable, Iterator
from typing import Final

from modelfs.store.chunks.table import ChunkTable
from modelfs.store.chunks.writer import WriteResult
from modelfs.store.index.chunk_records import Chunk, PackRow
from modelfs.store.index.counters import NEXT_CHUNK, NEXT_PACK, Counters
from modelfs.store.index.index import Index
from modelfs.store.index.tables import ChunkId
from modelfs.store.packs.pack import Packs

# Chunk records and links to sources changed in one slice, so that no request waits long.
SLICE: Final = 200

StillValid = Callable[[ChunkId, Chunk], bool]


class Publisher:
    """Enters the results of writers into the index."""

    def __init__(self, index: Index, counters: Counters, chunks: ChunkTable, packs: Packs) -> None:
        self._index = index
        self._counters = counters
        self._chunks = chunks
        self._packs = packs

    def publish(self, result: WriteResult, still_valid: StillValid | None = None) -> Iterator[None]:
        """Enter a writer's result into the index, a slice at a time; yields between two slices.

        Args:
            result: of `ChunkWriter.finish`, so its bytes are durable.
            still_valid: given a moved chunk and its new record, returns whether the chunk is
                unchanged since the writer read it. By default every chunk that still has a record
                is moved.
        """
        for number, chunks in enumerate(_slices(result)):
            if number:
                yield
            with self._index.change():
                if not number:
                    for tail in result.tails:
                        row = self._chunks.pack_row(tail.pack)
                        self._chunks.put_pack_row(tail.pack, PackRow(tail.stop, row.live))
                        if tail.pack >= self._counters.get(NEXT_PACK):
                            self._counters.set(NEXT_PACK, tail.pack + 1)
                    if result.added:
                        self._counters.set(NEXT_CHUNK, max(result.added) + 1)
                for chunk in chunks:
                    self._publish_chunk(result, chunk, still_valid)
            if not number:
                self._packs.published()

    def _publish_chunk(
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
    # At least one, which may be empty: the first slice also records the packs' ends.
    chunks: list[ChunkId] = []
    cost = 0
    for chunk in (*result.added, *result.moved):
        if cost >= SLICE:
            yield chunks
            chunks, cost = [], 0
        chunks.append(chunk)
        cost += 1 + len(result.sources.get(chunk, ()))
    yield chunks
