"""Deriving chunks: content made from that of others, which may be derived themselves."""

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from modelfs.codecs import DERIVATIONS
from modelfs.codecs.base import Bytes, CodecId
from modelfs.errors import CorruptChunk
from modelfs.store.chunks.recipe import Recipe, SourceRun
from modelfs.store.chunks.transposed import TransposedParts
from modelfs.store.index.records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId

# Sources that are kept while one chunk is gathered: its runs may take turns with them.
SOURCES_KEPT: Final = 4


class RecipeReader:
    """Makes chunks by their recipes. Any thread."""

    def __init__(
        self,
        load: Callable[[ChunkId], bytes],
        load_source: Callable[[ChunkId], bytes],
        transposed: TransposedParts,
    ) -> None:
        """Begin; both return a chunk's whole content, and may come back here for it.

        Args:
            load: for any use.
            load_source: for who keeps what it makes of it.
            transposed: the tensors that are made in one piece.
        """
        self._load = load
        self._load_source = load_source
        self._transposed = transposed
        self._local = threading.local()

    def content(self, chunk: ChunkId, record: Chunk, recipe: Recipe) -> Bytes:
        """Return what a derived chunk's recipe makes.

        Raises:
            CorruptChunk: a chunk of the source is damaged or missing.
            KeyError, ValueError: the recipe makes nothing of that size.
        """
        under_way = self._under_way()
        under_way.append(chunk)
        try:
            if is_part(record):
                return self._transposed.content(record, recipe, self._sources)
            source = self._sources(recipe.runs)
        except CorruptChunk as exc:
            problem = f"what it derives from is damaged: {exc}"
            raise CorruptChunk(chunk, problem, exc.base) from exc
        finally:
            under_way.pop()
        return DERIVATIONS[record.codec].decode(recipe.payload, record.size, source)

    def gather(self, runs: Sequence[SourceRun]) -> bytes:
        """Return the content of runs, put together.

        Raises:
            CorruptChunk: a chunk that they are of is damaged or missing, or shorter.
        """
        try:
            return self._gathered(runs, self._load)
        except ValueError as exc:
            raise CorruptChunk(runs[0].chunk, str(exc)) from exc

    def _sources(self, runs: Sequence[SourceRun]) -> bytes:
        return self._gathered(runs, self._load_source)

    def _gathered(self, runs: Sequence[SourceRun], load: Callable[[ChunkId], bytes]) -> bytes:
        load = lru_cache(SOURCES_KEPT)(load)
        parts = [self._run(run, load) for run in runs]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _run(self, run: SourceRun, load: Callable[[ChunkId], bytes]) -> bytes:
        if run.chunk in self._under_way():
            raise ValueError("it derives from itself")  # and would be waited for forever
        part = load(run.chunk)[run.skip : run.skip + run.length]
        if len(part) < run.length:
            stop = run.skip + run.length
            raise ValueError(f"chunk {run.chunk} has no bytes {run.skip} to {stop}")
        return part

    def _under_way(self) -> list[ChunkId]:
        # What this thread is deriving, each chunk for the one before it.
        if not hasattr(self._local, "chunks"):
            self._local.chunks = []
        found: list[ChunkId] = self._local.chunks
        return found


def is_part(record: Chunk) -> bool:
    """Whether a chunk is a slice of a transposed tensor."""
    return record.kind is ChunkKind.DERIVED and record.codec is CodecId.TRANSPOSE
