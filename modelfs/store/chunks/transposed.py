"""Transposed tensors, made in one piece.

Every part of a transposed tensor needs all of its source, so the whole is made at once and kept as
one page; the chunks that are derived so are slices of it, and no pages of their own. Read in any
order, the tensor is made once for as long as it stays in the page cache.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from modelfs.codecs import transpose
from modelfs.store.chunks.cache import ChunkCache
from modelfs.store.chunks.recipe import Recipe, SourceRun
from modelfs.store.index.records import Chunk
from modelfs.store.index.tables import ChunkId

# Chunks of which it is remembered what they are slices of. One takes as much memory as its recipe,
# which is 2 KiB for a tensor of 128 MiB.
PARTS_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class _Part:
    whole: bytes  # the key of its page
    start: int
    size: int


class TransposedParts:
    """The chunks that are slices of transposed tensors. Any thread."""

    def __init__(self, cache: ChunkCache) -> None:
        self._cache = cache
        self._parts: OrderedDict[ChunkId, _Part] = OrderedDict()
        self._lock = threading.Lock()

    def holds(self, chunk: ChunkId) -> bool:
        """Say whether `peek` has a chunk's content."""
        with self._lock:
            part = self._parts.get(chunk)
        return part is not None and self._cache.holds(part.whole)

    def peek(self, chunk: ChunkId) -> memoryview | None:
        """Return a chunk's content if it was noted, and its tensor is in the cache."""
        with self._lock:
            part = self._parts.get(chunk)
        if part is None or (whole := self._cache.peek(part.whole)) is None:
            return None
        return memoryview(whole)[part.start : part.start + part.size]

    def content(
        self, record: Chunk, recipe: Recipe, gather: Callable[[Sequence[SourceRun]], bytes]
    ) -> memoryview:
        """Return the content of a chunk, a slice of its tensor.

        Args:
            record: of the chunk.
            recipe: of the chunk.
            gather: reads the source.

        Raises:
            CorruptChunk: a chunk of the source is damaged.
            ValueError: the recipe does not make anything of that size of it.
        """
        geometry, start = transpose.parse(recipe.payload)
        whole = self._cache.get(
            _key(recipe, geometry),
            lambda: transpose.whole(gather(recipe.runs), geometry),
            needed=record.refs + record.dependants,
            alone=True,
        )
        part = memoryview(whole)[start : start + record.size]
        if len(part) < record.size:
            raise ValueError(f"a tensor of {len(whole)} bytes has no {record.size} at {start}")
        return part

    def note(self, chunk: ChunkId, record: Chunk, recipe: Recipe) -> None:
        """Remember what a chunk is, whose content was found to be right."""
        geometry, start = transpose.parse(recipe.payload)
        with self._lock:
            self._parts[chunk] = _Part(_key(recipe, geometry), start, record.size)
            if len(self._parts) > PARTS_MAX:
                self._parts.popitem(last=False)

    def forget(self, chunk: ChunkId) -> None:
        with self._lock:
            self._parts.pop(chunk, None)


def _key(recipe: Recipe, geometry: transpose.Geometry) -> bytes:
    # All that the tensor depends on, as bytes: they are compared at once, and take little memory.
    return Recipe(recipe.runs, transpose.encode(geometry, 0)).to_bytes()
