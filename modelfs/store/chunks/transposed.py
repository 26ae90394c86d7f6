"""Transposed tensors: made whole, and read in parts.

Every part of a transposed tensor needs the whole source. So the whole tensor is made at once and
kept as one entry of the chunk cache. The chunks derived by transposition are parts of it, and have
no entries of their own. In whatever order they are read, the tensor is made once while it stays in
the cache.

Example. A tensor of 8 MiB is cut into eight chunks, each derived from the same source by transpose.
A read of chunk 5 makes all 8 MiB, enters them under a key of the recipe, and returns bytes 5 MiB to
6 MiB as a view. Reads of the other seven find the entry.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from modelfs.codecs import transpose
from modelfs.fork_lock import fork_lock
from modelfs.store.chunks.cache import ChunkCache
from modelfs.store.chunks.recipe import Recipe, SourceRun
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.tables import ChunkId

# Chunks whose tensor and offset are remembered. Each takes the memory of its recipe, which is 2 KiB
# for a tensor of 128 MiB.
PARTS_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class _Part:
    tensor: bytes  # the key of the tensor's cache entry
    start: int
    size: int


class TransposedParts:
    """The chunks that are parts of transposed tensors. Any thread."""

    def __init__(self, cache: ChunkCache) -> None:
        self._cache = cache
        self._parts: OrderedDict[ChunkId, _Part] = OrderedDict()
        self._lock = fork_lock()

    def holds(self, chunk: ChunkId) -> bool:
        """Whether `peek` would return a chunk's content."""
        with self._lock:
            part = self._parts.get(chunk)
        return part is not None and self._cache.holds(part.tensor)

    def peek(self, chunk: ChunkId) -> memoryview | None:
        """Return a chunk's content if the chunk is remembered and its tensor is cached."""
        with self._lock:
            part = self._parts.get(chunk)
        if part is None or (tensor := self._cache.peek(part.tensor)) is None:
            return None
        return memoryview(tensor)[part.start : part.start + part.size]

    def content(
        self, record: Chunk, recipe: Recipe, gather: Callable[[Sequence[SourceRun]], bytes]
    ) -> memoryview:
        """Return a chunk's content, a part of its tensor.

        Args:
            record: of the chunk.
            recipe: of the chunk.
            gather: reads the source.

        Raises:
            CorruptChunk: a chunk of the source is damaged.
            ValueError: the recipe's tensor has no `record.size` bytes at the chunk's offset.
        """
        geometry, start = transpose.parse(recipe.payload)
        tensor = self._cache.get(
            _key(recipe, geometry),
            lambda: transpose.whole(gather(recipe.runs), geometry),
            sharers=record.refs + record.dependants,
            alone=True,
        )
        part = memoryview(tensor)[start : start + record.size]
        if len(part) < record.size:
            raise ValueError(f"a tensor of {len(tensor)} bytes has no {record.size} at {start}")
        return part

    def remember(self, chunk: ChunkId, record: Chunk, recipe: Recipe) -> None:
        """Remember the tensor and offset of a chunk whose content was checked."""
        geometry, start = transpose.parse(recipe.payload)
        with self._lock:
            self._parts[chunk] = _Part(_key(recipe, geometry), start, record.size)
            if len(self._parts) > PARTS_MAX:
                self._parts.popitem(last=False)

    def forget(self, chunk: ChunkId) -> None:
        with self._lock:
            self._parts.pop(chunk, None)

    def clear(self) -> None:
        with self._lock:
            self._parts.clear()


def _key(recipe: Recipe, geometry: transpose.Geometry) -> bytes:
    # The source and the geometry, which determine the tensor. As bytes, which take little memory
    # and are compared quickly.
    return Recipe(recipe.runs, transpose.encode(geometry, 0)).to_bytes()
