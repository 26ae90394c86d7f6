"""Applying what came of a batch: the owner's half of the optimizer."""

from collections.abc import Iterator
from typing import Final

from modelfs.errors import CorruptIndex
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.batch import BatchResult
from modelfs.jobs.optimize.similarity import SimilarityIndex
from modelfs.jobs.steps import slices
from modelfs.store.index.records import Chunk
from modelfs.store.index.tables import ChunkId, InodeNumber
from modelfs.store.store import Store

# Changed in one go, so that no request waits long: a sketch is up to 40 rows.
CHUNKS_SLICE: Final = 200
SKETCHES_SLICE: Final = 10


class Applier:
    """Records what came of batches, unless something changed meanwhile."""

    def __init__(self, store: Store, backlog: Backlog) -> None:
        self._index = store.index
        self._inodes = store.inodes
        self._chunks = store.chunks
        self._backlog = backlog
        self._similarity = SimilarityIndex(store)

    def still_valid(self, result: BatchResult, chunk: ChunkId, new: Chunk) -> bool:
        """Whether a chunk may have its new form: it and its sources are what they were."""
        old = result.before.get(chunk)
        if old is None or not self._chunks.is_unmoved(chunk, old):
            return False
        sources = result.written.sources[chunk]
        if not all(self._is_sound(source) for source in sources):
            return False
        return not sources or self._chunks.lineage.may_derive(
            chunk, new.codec, sources, self._chunks.find, self._backlog.depth
        )

    def apply(self, result: BatchResult) -> Iterator[None]:
        """Record what came of a batch beside new forms, and go on behind it.

        Yields after each slice. After `Store.publish`, which asks `still_valid`.
        """
        for chunks in slices(list(result.unchanged.items()), CHUNKS_SLICE):
            with self._index.change():
                for chunk, code in chunks:
                    if self._is_sound(chunk):
                        self._chunks.mark_optimized(chunk, code)
            yield
        for sketches in slices(result.sketches, SKETCHES_SLICE):
            with self._index.change():
                for inode, row, sketch in sketches:
                    if self._is_there(inode):
                        self._similarity.put(inode, row, sketch)
            yield
        self._backlog.move_on(result)

    def _is_sound(self, chunk: ChunkId) -> bool:
        # A base-only chunk is to go, and not to be needed once more.
        record = self._chunks.find(chunk)
        return record is not None and record.refs > 0 and not record.is_lost

    def _is_there(self, inode: InodeNumber) -> bool:
        try:
            return self._inodes.find(inode) is not None
        except CorruptIndex:
            return False  # as good as gone here; a program that opens it gets the error
