"""Derivation: the content of a chunk, made by its recipe from the content of other chunks.

The source chunks may be derived themselves, so this module and `reader` call each other: the
`RecipeReader` gets two functions of the reader, and the reader has a `RecipeReader`.

Example. Chunk 7 has the recipe "bytes 0 to 1,000 of chunk 3, then all of chunk 4; delta; payload".
Both source chunks are loaded, the two runs are joined, and the codec `delta` decodes the payload
with them. If 3 is damaged, the error is about 7, and names 3 as its base.
"""

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

from modelfs.codecs import DERIVATIONS
from modelfs.codecs.base import Bytes, CodecId
from modelfs.errors import CorruptChunk
from modelfs.store.chunks.form import check_source
from modelfs.store.chunks.lineage import CHAIN_MAX
from modelfs.store.chunks.recipe import Recipe, SourceRun
from modelfs.store.chunks.transposed import TransposedParts
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId

# Source chunks kept in memory while one chunk is gathered: its runs may alternate between them.
SOURCES_KEPT: Final = 4

# Twice the longest chain that the optimizer makes: repair can read longer ones, and shorten them.
STACK_MAX: Final = 2 * CHAIN_MAX

Load = Callable[[ChunkId], bytes]


class RecipeReader:
    """Makes chunks by their recipes. Any thread."""

    def __init__(self, load: Load, load_source: Load, transposed: TransposedParts) -> None:
        """Make a reader of recipes.

        Args:
            load: returns a chunk's whole content; may call this object.
            load_source: the same, for a source whose derived chunk is cached, so that the source
                need not be.
            transposed: the cache of whole transposed tensors.
        """
        self._load = load
        self._load_source = load_source
        self._transposed = transposed
        self._local = threading.local()

    def content(self, chunk: ChunkId, record: Chunk, recipe: Recipe) -> Bytes:
        """Return the content of a derived chunk.

        Raises:
            CorruptChunk: a source chunk is damaged or missing.
            KeyError, ValueError: the recipe does not yield `record.size` bytes, its source is too
                long, or the chain of derivations is.
        """
        check_source(record, recipe.runs)
        stack = self._stack()
        if len(stack) >= STACK_MAX:
            raise ValueError(f"it derives from others in more than {STACK_MAX} steps")
        stack.append(chunk)
        try:
            if is_transposed_part(record):
                return self._transposed.content(record, recipe, self._gather_sources)
            source = self._gather_sources(recipe.runs)
        except CorruptChunk as exc:
            problem = f"a chunk it derives from is damaged: {exc}"
            raise CorruptChunk(chunk, problem, exc.base) from exc
        finally:
            stack.pop()
        return DERIVATIONS[record.codec].decode(recipe.payload, record.size, source)

    def gather(self, runs: Sequence[SourceRun]) -> bytes:
        """Return the content of runs, joined.

        Raises:
            CorruptChunk: a chunk of the runs is damaged, missing, or shorter than its run.
        """
        try:
            return self._gather(runs, self._load)
        except ValueError as exc:
            raise CorruptChunk(runs[0].chunk, str(exc)) from exc

    def _gather_sources(self, runs: Sequence[SourceRun]) -> bytes:
        return self._gather(runs, self._load_source)

    def _gather(self, runs: Sequence[SourceRun], load: Load) -> bytes:
        load = lru_cache(SOURCES_KEPT)(load)
        parts: list[bytes] = []
        for run in runs:
            if run.chunk in self._stack():
                # A damaged index only; without this check the thread would wait for itself.
                raise ValueError("it derives from itself")
            part = load(run.chunk)[run.skip : run.skip + run.length]
            if len(part) < run.length:
                stop = run.skip + run.length
                raise ValueError(f"chunk {run.chunk} has no bytes {run.skip} to {stop}")
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _stack(self) -> list[ChunkId]:
        # The chunks that this thread is deriving, each one as a source of the one before it.
        if not hasattr(self._local, "stack"):
            self._local.stack = []
        stack: list[ChunkId] = self._local.stack
        return stack


def is_transposed_part(record: Chunk) -> bool:
    """Whether a chunk is a part of a transposed tensor."""
    return record.kind is ChunkKind.DERIVED and record.codec is CodecId.TRANSPOSE
