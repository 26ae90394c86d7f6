"""Lineage: which chunks are derived from which, both ways.

Recipes lie in packs, where nothing can be looked up; so the index repeats their sources. A chunk is
encoded in another form only if the chunks that derive from it stay readable in few steps. That also
rules out that a chunk ever comes to derive from itself.

Example. Chunk 1 is stored by itself, chunk 2 is a cast of it, and chunk 3 a delta of chunk 2::

    sources     2: 1    3: 2
    dependants  1: 2    2: 3
    depths      1: Depth(0, 0)    2: Depth(1, 0)    3: Depth(2, 1)

With one delta in a chain at most, chunk 4 may be a cast of chunk 3, and not a delta of it. Chunk 1
may not derive from chunk 4, which would derive from itself then.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final, NamedTuple

from modelfs.codecs.base import CodecId
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.index import Index
from modelfs.store.index.tables import ChunkId, Table, pair_key, pair_of

# Derivations between a chunk and stored bytes, of whatever kind.
CHAIN_MAX: Final = 4
# Deltas among these, unless a caller asks for another number: each costs a decode of its own.
DEPTH: Final = 1
# The most chunks that a search among a chunk's dependants visits.
VISITED_MAX: Final = 5000

Find = Callable[[ChunkId], Chunk | None]


class Depth(NamedTuple):
    """The length of chains of derivations between a chunk and stored bytes.

    The longest chain and the one with most deltas need not be the same.
    """

    steps: int = 0  # derivations in the longest chain
    deltas: int = 0  # in the chain with most of them

    def derived(self, codec: CodecId) -> "Depth":
        """Return the depth of a chunk that is derived by `codec` from one of this depth."""
        return Depth(self.steps + 1, self.deltas + (codec is CodecId.DELTA))


def deepest(depths: Iterable[Depth]) -> Depth:
    """Return the most steps and the most deltas of any of these; none of none."""
    steps = deltas = 0
    for depth in depths:
        steps, deltas = max(steps, depth.steps), max(deltas, depth.deltas)
    return Depth(steps, deltas)


class Lineage:
    """The rows of `sources` and `dependants`. Reading is for any thread."""

    def __init__(self, index: Index) -> None:
        self._index = index

    def sources(self, chunk: ChunkId) -> list[ChunkId]:
        rows = self._index.pages(Table.SOURCES, pair_key(chunk, 0), pair_key(chunk + 1, 0))
        return [ChunkId(pair_of(key)[1]) for key, _ in rows]

    def dependants(self, chunk: ChunkId) -> Iterator[ChunkId]:
        rows = self._index.pages(Table.DEPENDANTS, pair_key(chunk, 0), pair_key(chunk + 1, 0))
        return (ChunkId(pair_of(key)[1]) for key, _ in rows)

    def descendants(self, chunk: ChunkId) -> Iterator[ChunkId]:
        """Yield the chunks that derive from this one, or from one that does, each once.

        Those with fewest steps first, and no more than `VISITED_MAX`.
        """
        seen, level = {chunk}, [chunk]
        while level:
            following: list[ChunkId] = []
            for dependant in chain.from_iterable(map(self.dependants, level)):
                if dependant not in seen and len(seen) <= VISITED_MAX:
                    seen.add(dependant)
                    following.append(dependant)
                    yield dependant
            level = following

    def link(self, chunk: ChunkId, source: ChunkId) -> None:
        self._index.put(Table.SOURCES, pair_key(chunk, source), b"")
        self._index.put(Table.DEPENDANTS, pair_key(source, chunk), b"")

    def unlink(self, chunk: ChunkId, source: ChunkId) -> None:
        self._index.delete(Table.SOURCES, pair_key(chunk, source))
        self._index.delete(Table.DEPENDANTS, pair_key(source, chunk))

    def may_derive(
        self, chunk: ChunkId, codec: CodecId, sources: tuple[ChunkId, ...], find: Find, depth: int
    ) -> bool:
        """Whether a chunk may be derived from others, with at most `depth` deltas in a chain."""
        above = _depths(self, sources, find)
        if above is None or chunk in above:
            return False
        own = deepest(above.values()).derived(codec)
        return self.may_have_depth(chunk, own, find, depth)

    def may_have_depth(self, chunk: ChunkId, own: Depth, find: Find, depth: int) -> bool:
        """Whether the dependants of a chunk of depth `own` have at most `depth` deltas, too."""
        below = _depth_below(self, chunk, find)
        if below is None:
            return False
        return own.steps + below.steps <= CHAIN_MAX and own.deltas + below.deltas <= depth

    def deltas_above(self, chunk: ChunkId, find: Find) -> int:
        """Return how many deltas are between a chunk's content and stored bytes."""
        depths = _depths(self, (chunk,), find)
        return CHAIN_MAX if depths is None else depths[chunk].deltas


def _depths(
    lineage: Lineage, chunks: tuple[ChunkId, ...], find: Find
) -> dict[ChunkId, Depth] | None:
    """Return the depths of some chunks and of all that they need; None if a chain is too long."""
    depths: dict[ChunkId, Depth] = {}
    for chunk in chunks:
        if _depth(lineage, chunk, find, CHAIN_MAX + 1, depths) is None:
            return None
    return depths


def _depth(
    lineage: Lineage, chunk: ChunkId, find: Find, room: int, depths: dict[ChunkId, Depth]
) -> Depth | None:
    """Return the depth of a chunk, and put it and those of all that it needs into `depths`.

    None if a record is missing, or if a chain has more than `room` chunks.
    """
    if chunk in depths:
        return depths[chunk]
    record = find(chunk)
    if record is None or not room:
        return None
    depth = Depth()
    for source in lineage.sources(chunk):
        below = _depth(lineage, source, find, room - 1, depths)
        if below is None:
            return None
        depth = deepest((depth, below.derived(record.codec)))
    depths[chunk] = depth
    return depth


def _depth_below(lineage: Lineage, chunk: ChunkId, find: Find) -> Depth | None:
    """Return the depth that the dependants of a chunk have over it.

    None if they are too many, if a record is missing, or if a chain is too long.
    """
    visited = steps = most = 0
    level = {chunk: 0}  # the most deltas between the chunk and each of these
    while level:
        following: dict[ChunkId, int] = {}
        for source, deltas in level.items():
            for dependant in lineage.dependants(source):
                visited += 1
                record = find(dependant)
                if visited > VISITED_MAX or record is None or steps > CHAIN_MAX:
                    return None
                count = deltas + (record.codec is CodecId.DELTA)
                following[dependant] = max(following.get(dependant, 0), count)
                most = max(most, count)
        steps += bool(following)
        level = following
    return Depth(steps, most)
