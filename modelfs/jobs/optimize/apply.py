"""Applying the result of a batch. Owner's thread, in slices."""

from collections.abc import Iterator
from typing import Final

from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.batch import BatchResult
from modelfs.jobs.optimize.similarity import SimilarityIndex
from modelfs.jobs.steps import slices
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.tables import ChunkId
from modelfs.store.store import Store

# Items of one change of the index, so that no request waits long. A sketch is up to 40 rows.
CHUNKS_SLICE: Final = 200
SKETCHES_SLICE: Final = 10


class Applier:
    """Records the results of batches, as far as nothing has changed since the work."""

    def __init__(self, store: Store, backlog: Backlog) -> None:
        self._index = store.index
        self._chunks = store.chunks
        self._backlog = backlog
        self._similarity = SimilarityIndex(store)

    def still_valid(self, result: BatchResult, chunk: ChunkId, new: Chunk) -> bool:
        """Whether a chunk may have its new form: neither it nor its sources have changed."""
        old = result.old_records.get(chunk)
        if old is None or not self._chunks.is_unmoved(chunk, old):
            return False
        sources = result.written.sources[chunk]
        if not all(self._is_in_use(source) for source in sources):
            return False
        return not sources or self._chunks.lineage.may_derive(
            chunk, new.codec, sources, self._chunks.find, self._backlog.depth
        )

    def apply(self, result: BatchResult) -> Iterator[None]:
        """Record unchanged chunks, sketches and kept bases, and advance the backlog.

        Yields after each slice. Call it after `Store.publish`, which records the new forms.
        """
        for chunks in slices(list(result.unchanged.items()), CHUNKS_SLICE):
            with self._index.change():
                for chunk, code in chunks:
                    if self._is_in_use(chunk):
                        self._chunks.mark_optimized(chunk, code)
            yield
        for sketches in slices(result.sketches, SKETCHES_SLICE):
            with self._index.change():
                for inode, row, sketch in sketches:
                    if self._backlog.find_inode(inode) is not None:
                        self._similarity.put(inode, row, sketch)
            yield
        for bases in slices(list(result.kept.items()), CHUNKS_SLICE):
            with self._index.change():
                for base, dependants in bases:
                    self._chunks.keep_base(base, dependants)
            yield
        self._backlog.advance(result)

    def _is_in_use(self, chunk: ChunkId) -> bool:
        # A base-only chunk is not: it is to be freed, and gets no more dependants.
        record = self._chunks.find(chunk)
        return record is not None and record.refs > 0 and not record.is_lost
