"""The chunk table: what the index records of each chunk.

A chunk's content never changes. Its record does: where the bytes lie (gc moves them, a good copy
replaces damaged ones), their form (the optimizer finds smaller ones), how many extents point to it
and how many chunks derive from it. A chunk that nothing needs is dead; it stays readable, and may
be revived, until gc removes its record. `ChunkReader` reads the bytes.

Example. Two files share chunk 7, so its `refs` are 2. The optimizer stores it as a delta to chunk
3: 7 moves to a new place, and 3 counts one more dependant. Both files are removed: 7 is dead, 3 is
alive still. gc removes 7 and, with its link to 3, the dependant: now 3 is dead, too.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import xxhash

from modelfs.errors import CorruptIndex
from modelfs.store.chunks.lineage import Lineage
from modelfs.store.index.counters import Counters
from modelfs.store.index.index import Index
from modelfs.store.index.records import Chunk, ChunkKind, PackRow
from modelfs.store.index.tables import ChunkId, PackId, Table, number_key


class ChunkTable:
    """The chunk records of the index. Reading is for any thread."""

    def __init__(self, index: Index, counters: Counters, hash_seed: int) -> None:
        self._index = index
        self._counters = counters
        self._seed = hash_seed
        self.lineage = Lineage(index)

    def digest(self, content: bytes) -> bytes:
        """Return the hash under which content is looked for. It proves nothing: compare."""
        return xxhash.xxh3_128_digest(content, self._seed)

    def find(self, chunk: ChunkId) -> Chunk | None:
        value = self._index.get(Table.CHUNKS, number_key(chunk))
        return None if value is None else Chunk.from_bytes(value)

    def record(self, chunk: ChunkId) -> Chunk:
        """Return a chunk's record.

        Raises:
            CorruptIndex: there is none, though something refers to it.
        """
        if (found := self.find(chunk)) is None:
            raise CorruptIndex(f"chunk {chunk} has no record")
        return found

    def is_unmoved(self, chunk: ChunkId, record: Chunk) -> bool:
        """Whether a chunk still lies where a record says; nothing else changes its bytes."""
        now = self.find(chunk)
        return now is not None and now.place == record.place

    def with_digest(self, digest: bytes) -> Iterator[ChunkId]:
        """Yield the chunks whose content has that hash: none, one, or more if it collides."""
        value = self._index.get(Table.HASHES, digest) or b""
        for at in range(0, len(value), 8):
            yield ChunkId(int.from_bytes(value[at : at + 8], "big"))

    def add(self, chunk: ChunkId, record: Chunk) -> None:
        """Make a chunk known that nothing points to yet."""
        known = self._index.get(Table.HASHES, record.digest) or b""
        self._index.put(Table.HASHES, record.digest, known + number_key(chunk))
        self._put(chunk, None, record)

    def point(self, chunk: ChunkId, uses: int, used: int) -> None:
        """Count `uses` more extents of `used` bytes together; negative for fewer."""
        old = self.record(chunk)
        if old.refs + uses < 0 or old.ref_bytes + used < 0:
            raise CorruptIndex(f"chunk {chunk} would be used {old.refs + uses} times")
        self._put(
            chunk,
            old,
            dataclasses.replace(old, refs=old.refs + uses, ref_bytes=old.ref_bytes + used),
        )

    def move(self, chunk: ChunkId, new: Chunk, sources: Sequence[ChunkId] | None = None) -> None:
        """Say that the chunk's bytes are now where, and in the form that, `new` says.

        Its counts stay. What a derived chunk is derived from is told with a new recipe only.
        """
        old = self.record(chunk)
        if sources is not None or new.kind is not ChunkKind.DERIVED:
            self._link(chunk, sources or ())
        right = dataclasses.replace(
            new, refs=old.refs, ref_bytes=old.ref_bytes, dependants=old.dependants
        )
        self._put(chunk, old, right)

    def mark_optimized(self, chunk: ChunkId, element: int) -> None:
        """Note that the chunk, of such numbers, has its smallest form."""
        old = self.record(chunk)
        self._put(chunk, old, dataclasses.replace(old, optimized=True, element=element))

    def _link(self, chunk: ChunkId, sources: Sequence[ChunkId]) -> int:
        old, new = set(self.lineage.sources(chunk)), set(sources)
        for source in sorted(new - old):
            self.lineage.link(chunk, source)
            self._pin(source, 1)
        for source in sorted(old - new):
            self.lineage.unlink(chunk, source)
            self._pin(source, -1)
        return len(old ^ new)

    def _pin(self, chunk: ChunkId, difference: int) -> None:
        old = self.record(chunk)
        if old.dependants + difference < 0:
            raise CorruptIndex(
                f"chunk {chunk} would be needed by {old.dependants + difference} chunks"
            )
        self._put(chunk, old, dataclasses.replace(old, dependants=old.dependants + difference))

    def remove(self, chunk: ChunkId) -> int:
        """Remove a dead chunk's record, and return from how many others it derived."""
        old = self.record(chunk)
        if old.alive:
            raise CorruptIndex(f"chunk {chunk} is listed as dead, and needed")
        sources = self._link(chunk, ())
        others = [each for each in self.with_digest(old.digest) if each != chunk]
        if others:
            self._index.put(Table.HASHES, old.digest, b"".join(map(number_key, others)))
        else:
            self._index.delete(Table.HASHES, old.digest)
        self._index.delete(Table.CHUNKS, number_key(chunk))
        self._index.delete(Table.DEAD, number_key(chunk))
        self._counters.replace_chunk(old, None)
        return sources

    def pack_row(self, pack: PackId) -> PackRow:
        value = self._index.get(Table.PACKS, number_key(pack))
        return PackRow(0, 0) if value is None else PackRow.from_bytes(value)

    def put_pack_row(self, pack: PackId, row: PackRow) -> None:
        self._index.put(Table.PACKS, number_key(pack), row.to_bytes())

    def _put(self, chunk: ChunkId, old: Chunk | None, new: Chunk) -> None:
        key = number_key(chunk)
        self._index.put(Table.CHUNKS, key, new.to_bytes())
        self._list(Table.DEAD, key, was=old is not None and not old.alive, now=not new.alive)
        self._list(Table.BASE_ONLY, key, was=old is not None and old.base_only, now=new.base_only)
        self._counters.replace_chunk(old, new)
        live: dict[PackId, int] = {}
        for record, sign in ((old, -1), (new, 1)):
            if record is not None and record.alive and not record.is_lost:
                live[record.pack] = live.get(record.pack, 0) + sign * record.stored
        for pack, difference in live.items():
            if difference:
                row = self.pack_row(pack)
                self.put_pack_row(pack, dataclasses.replace(row, live=row.live + difference))

    def _list(self, table: Table, key: bytes, *, was: bool, now: bool) -> None:
        if now and not was:
            self._index.put(table, key, b"")
        elif was and not now:
            self._index.delete(table, key)
