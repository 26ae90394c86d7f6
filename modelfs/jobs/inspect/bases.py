"""What a file's derived chunks are derived from, and in whose files that is."""

from collections import Counter
from collections.abc import Iterable, Mapping

from modelfs.store.chunks.table import ChunkTable
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId, InodeNumber

User = tuple[InodeNumber, int, str | None]  # inode, and the start and name of its tensor


class Bases:
    """The sources of a file's chunks. Of each source's users, the first is named."""

    def __init__(self, chunks: ChunkTable, records: Mapping[ChunkId, Chunk | None]) -> None:
        self._chunks = chunks
        self._records = records
        self._sources = {
            chunk: chunks.lineage.sources(chunk)
            for chunk, record in records.items()
            if record is not None and record.kind is ChunkKind.DERIVED
        }
        self._users: dict[ChunkId, User] = {}
        self.wanted = {each for sources in self._sources.values() for each in sources}
        for each in list(self.wanted):
            record = chunks.find(each)
            if record is None or not record.refs:
                self.wanted.discard(each)  # no file has it

    def found(self, source: ChunkId, user: User) -> None:
        """Note who uses a wanted source."""
        self._users[source] = user
        self.wanted.discard(source)

    def of(self, parts: Iterable[tuple[ChunkId, RangeSet]]) -> Counter[User | None]:
        """Return how many bytes of these chunks derive from whose; None for what no file has."""
        found = Counter[User | None]()
        for chunk, ranges in parts:
            for user in {self._users.get(source) for source in self._sources.get(chunk, ())}:
                found[user] += ranges.size
        return found

    def pinned(self, foreign: Mapping[ChunkId, int]) -> set[ChunkId]:
        """Return which of the file's chunks stay when it goes, since others derive from them.

        Args:
            foreign: those that stay because other files use them.
        """
        known: dict[ChunkId, bool] = {}

        def stays(chunk: ChunkId) -> bool:
            if chunk not in self._records or chunk in foreign:
                return True
            if chunk not in known:
                known[chunk] = False  # where a chunk derives from itself, which none should
                known[chunk] = any(map(stays, self._chunks.lineage.dependants(chunk)))
            return known[chunk]

        return {
            chunk
            for chunk, record in self._records.items()
            if record is not None and record.dependants and stays(chunk)
        }
