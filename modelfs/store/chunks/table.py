"""The chunk table: the index's record of each chunk.

A chunk's content never changes. Its record changes: the place of the bytes (gc moves them, a good
copy replaces damaged ones), their form (the optimizer finds smaller ones), the number of extents
that refer to it, and the number of chunks that derive from it. A chunk without extents and
dependants is *dead*. It stays readable, and a new extent may revive it, until gc removes its
record. `ChunkReader` reads the bytes.

Example. Two files share chunk 7, so its `refs` is 2. The optimizer stores 7 as a delta to chunk 3:
7 moves to a new place, and 3 counts one more dependant. Both files are removed: 7 is dead, 3 is
still alive. gc removes 7, and with its link to 3 the dependant: now 3 is dead, too.
"""

import dataclasses
import logging
from collections.abc import Iterator, Sequence

import xxhash

from modelfs.errors import CorruptIndex
from modelfs.store.chunks.lineage import Lineage
from modelfs.store.index.chunk_records import Chunk, ChunkKind, PackRow
from modelfs.store.index.counters import Counters
from modelfs.store.index.index import Index
from modelfs.store.index.tables import KEPT, ChunkId, PackId, Table, number_key

log = logging.getLogger(__name__)


class ChunkTable:
    """The chunk records of the index. Any thread may read; only the owner changes."""

    def __init__(self, index: Index, counters: Counters, hash_seed: int) -> None:
        self._index = index
        self._counters = counters
        self._seed = hash_seed
        self.lineage = Lineage(index)

    def digest(self, content: bytes) -> bytes:
        """Return the hash under which content is looked up, 16 bytes.

        Equal hashes do not prove equal content: the caller compares.
        """
        return xxhash.xxh3_128_digest(content, self._seed)

    def find(self, chunk: ChunkId) -> Chunk | None:
        """Return a chunk's record, None if there is none.

        Raises:
            CorruptIndex: the record is damaged.
        """
        value = self._index.get(Table.CHUNKS, number_key(chunk))
        return None if value is None else Chunk.from_bytes(value)

    def record(self, chunk: ChunkId) -> Chunk:
        """Return the record of a chunk that an extent or a recipe refers to.

        Raises:
            CorruptIndex: the record is missing or damaged.
        """
        if (record := self.find(chunk)) is None:
            raise CorruptIndex(f"chunk {chunk} has no record")
        return record

    def is_unmoved(self, chunk: ChunkId, record: Chunk) -> bool:
        """Whether a chunk is still at the place in `record`: then its stored bytes are the same."""
        current = self.find(chunk)
        return current is not None and current.place == record.place

    def with_digest(self, digest: bytes) -> Iterator[ChunkId]:
        """Yield the chunks whose content has this hash: none, one, or several that collide."""
        value = self._index.get(Table.HASHES, digest) or b""
        for at in range(0, len(value), 8):
            yield ChunkId(int.from_bytes(value[at : at + 8], "big"))

    def add(self, chunk: ChunkId, record: Chunk) -> None:
        """Add a new chunk's record. The chunk is dead until an extent refers to it."""
        chunks = self._index.get(Table.HASHES, record.digest) or b""
        self._index.put(Table.HASHES, record.digest, chunks + number_key(chunk))
        self._put(chunk, None, record)

    def add_refs(self, chunk: ChunkId, refs: int, ref_bytes: int) -> None:
        """Count more extents of a chunk, and their total length; negative for fewer.

        Raises:
            CorruptIndex: a count would become negative, or the record is missing or damaged.
        """
        old = self.record(chunk)
        new = dataclasses.replace(old, refs=old.refs + refs, ref_bytes=old.ref_bytes + ref_bytes)
        if new.refs < 0 or new.ref_bytes < 0:
            raise CorruptIndex(f"chunk {chunk} would have {new.refs} extents")
        self._put(chunk, old, new)

    def move(self, chunk: ChunkId, new: Chunk, sources: Sequence[ChunkId] | None = None) -> None:
        """Replace the place and form of a chunk's bytes by those of `new`. Its counts stay.

        Args:
            chunk: the chunk.
            new: its record, of whose counts none is used.
            sources: of a new recipe; None: a derived chunk keeps its sources, any other has none.
        """
        old = self.record(chunk)
        if sources is not None or new.kind is not ChunkKind.DERIVED:
            self._link(chunk, sources or ())
        counted = dataclasses.replace(
            new, refs=old.refs, ref_bytes=old.ref_bytes, dependants=old.dependants
        )
        self._put(chunk, old, counted)

    def mark_optimized(self, chunk: ChunkId, element: int) -> None:
        """Record that a chunk has its smallest form, as numbers of type `element`."""
        old = self.record(chunk)
        self._put(chunk, old, dataclasses.replace(old, optimized=True, element=element))

    def keep_base(self, chunk: ChunkId, dependants: int) -> None:
        """Record that a base-only chunk is kept while it has as many dependants."""
        record = self.find(chunk)
        if record is not None and record.base_only and record.dependants == dependants:
            self._index.put(Table.BASE_ONLY, number_key(chunk), KEPT)

    def _link(self, chunk: ChunkId, sources: Sequence[ChunkId]) -> int:
        """Replace a chunk's sources; return how many links were added and removed."""
        old, new = set(self.lineage.sources(chunk)), set(sources)
        for source in sorted(new - old):
            self.lineage.link(chunk, source)
            self._add_dependants(source, 1)
        for source in sorted(old - new):
            self.lineage.unlink(chunk, source)
            self._add_dependants(source, -1)
        return len(old ^ new)

    def _add_dependants(self, chunk: ChunkId, number: int) -> None:
        old = self.record(chunk)
        dependants = old.dependants + number
        if dependants < 0:
            raise CorruptIndex(f"chunk {chunk} would have {dependants} dependants")
        self._put(chunk, old, dataclasses.replace(old, dependants=dependants))

    def remove(self, chunk: ChunkId) -> int:
        """Remove a dead chunk's record, and return the number of its sources.

        Raises:
            CorruptIndex: the chunk is alive, or its record, or one of a source, is missing or
                damaged. The caller undoes the change.
        """
        record = self.record(chunk)
        if record.alive:
            raise CorruptIndex(f"chunk {chunk} is listed as dead, but it is in use")
        sources = self._link(chunk, ())
        try:
            others = [other for other in self.with_digest(record.digest) if other != chunk]
        except CorruptIndex as exc:
            # The row is dropped with the chunk. A colliding chunk, if there was one, stays
            # readable; new copies of its content are stored again.
            log.warning(
                "the digest row of dead chunk %d is damaged, and is dropped: %s", chunk, exc
            )
            others = []
        if others:
            self._index.put(Table.HASHES, record.digest, b"".join(map(number_key, others)))
        else:
            self._index.delete(Table.HASHES, record.digest)
        self._index.delete(Table.CHUNKS, number_key(chunk))
        self._index.delete(Table.DEAD, number_key(chunk))
        self._counters.replace_chunk(record, None)
        return sources

    def pack_row(self, pack: PackId) -> PackRow:
        """Return a pack's row, zeros if it has none yet."""
        value = self._index.get(Table.PACKS, number_key(pack))
        return PackRow(0, 0) if value is None else PackRow.from_bytes(value)

    def put_pack_row(self, pack: PackId, row: PackRow) -> None:
        self._index.put(Table.PACKS, number_key(pack), row.to_bytes())

    def _put(self, chunk: ChunkId, old: Chunk | None, new: Chunk) -> None:
        """Put a record, and change all rows and totals that depend on it."""
        key = number_key(chunk)
        self._index.put(Table.CHUNKS, key, new.to_bytes())
        self._relist(Table.DEAD, key, was=old is not None and not old.alive, now=not new.alive)
        was_base_only = old is not None and old.base_only
        self._relist(Table.BASE_ONLY, key, was=was_base_only, now=new.base_only)
        if old is not None and was_base_only and new.base_only and old.dependants != new.dependants:
            # A base that was kept for its former dependants is tried again.
            self._index.put(Table.BASE_ONLY, key, b"")
        self._counters.replace_chunk(old, new)
        live: dict[PackId, int] = {}  # differences of live bytes
        for record, sign in ((old, -1), (new, 1)):
            if record is not None and record.alive and not record.is_lost:
                live[record.pack] = live.get(record.pack, 0) + sign * record.stored
        for pack, difference in live.items():
            if difference:
                row = self.pack_row(pack)
                self.put_pack_row(pack, dataclasses.replace(row, live=row.live + difference))

    def _relist(self, table: Table, key: bytes, *, was: bool, now: bool) -> None:
        if now and not was:
            self._index.put(table, key, b"")
        elif was and not now:
            self._index.delete(table, key)
