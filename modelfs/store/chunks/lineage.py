"""Lineage: which chunks are derived from which, both ways.

Recipes lie in packs, where nothing can be looked up; so the index repeats which sources they name.
A chunk is written anew in another form only if what derives from it stays readable in few steps,
which rules out that a chunk ever comes to derive from itself.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

from modelfs.codecs.base import CodecId
from modelfs.store.index.index import Index
from modelfs.store.index.records import Chunk
from modelfs.store.index.tables import ChunkId, Table, pair_key, pair_of

# Derivations between a chunk and stored bytes, of whatever kind.
CHAIN_MAX: Final = 4
# Deltas among these, unless a store is told otherwise: each costs a decode of its own.
DEPTH: Final = 1
# Chunks looked at before a question about a chunk's dependants is given up.
LOOK_MAX: Final = 5000

Find = Callable[[ChunkId], Chunk | None]


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

        Those with fewest steps first, and no more than `LOOK_MAX`.
        """
        seen, level = {chunk}, [chunk]
        while level:
            following: list[ChunkId] = []
            for each in chain.from_iterable(map(self.dependants, level)):
                if each not in seen and len(seen) <= LOOK_MAX:
                    seen.add(each)
                    following.append(each)
                    yield each
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
        """Whether a chunk may be derived from others, with so many deltas in a chain at most."""
        above = self._above(sources, find)
        if above is None or chunk in above:
            return False
        below = self._below(chunk, find)
        if below is None:
            return False
        # The longest chain and the one with the most deltas need not go to the same source.
        length = max(steps for steps, _ in above.values())
        deltas = max(deltas for _, deltas in above.values())
        deltas += (codec is CodecId.DELTA) + below[1]
        return length + 1 + below[0] <= CHAIN_MAX and deltas <= depth

    def deltas_above(self, chunk: ChunkId, find: Find) -> int:
        """Return how many deltas are between a chunk's content and stored bytes."""
        above = self._above((chunk,), find)
        return CHAIN_MAX if above is None else above[chunk][1]

    def _above(
        self, sources: tuple[ChunkId, ...], find: Find
    ) -> dict[ChunkId, tuple[int, int]] | None:
        # The chunks that these need, themselves included, with how many derivations, and how many
        # deltas, are between each and stored bytes; None if the chain is too long already.
        found: dict[ChunkId, tuple[int, int]] = {}

        def steps(chunk: ChunkId, room: int) -> tuple[int, int] | None:
            if chunk in found:
                return found[chunk]
            record = find(chunk)
            if record is None or not room:
                return None
            least = (0, 0)
            for source in self.sources(chunk):
                if (under := steps(source, room - 1)) is None:
                    return None
                is_delta = record.codec is CodecId.DELTA
                least = max(least[0], under[0] + 1), max(least[1], under[1] + is_delta)
            found[chunk] = least
            return least

        if any(steps(source, CHAIN_MAX + 1) is None for source in sources):
            return None
        return found

    def _below(self, chunk: ChunkId, find: Find) -> tuple[int, int] | None:
        # How many derivations, and how many deltas, are at most between the chunk and one that
        # needs it; None if that is too much to ask.
        looked = 0
        level = {chunk: 0}  # with the deltas so far
        length = deltas = 0
        while level:
            following: dict[ChunkId, int] = {}
            for source, so_far in level.items():
                for dependant in self.dependants(source):
                    looked += 1
                    record = find(dependant)
                    if looked > LOOK_MAX or record is None or length > CHAIN_MAX:
                        return None
                    count = so_far + (record.codec is CodecId.DELTA)
                    following[dependant] = max(following.get(dependant, 0), count)
                    deltas = max(deltas, count)
            length += bool(following)
            level = following
        return length, deltas
