"""`CheckView`: a store's index, as the invariants of `check` read it.

A row that does not decode is *broken*. `rows_decode` reports it once, and all reads of the view
pass over it, so that no other invariant fails at it.
"""

import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from modelfs.store.files.inode_totals import Totals, count_totals
from modelfs.store.index.chunk_records import Chunk, PackRow
from modelfs.store.index.counters import chunk_counts
from modelfs.store.index.decoders import decode_link, decode_number
from modelfs.store.index.index import KEY_END
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent, Inode, WindowRanges
from modelfs.store.index.tables import (
    KEY_MAX,
    ChunkId,
    InodeNumber,
    Table,
    number_key,
    number_of,
    pair_key,
)
from modelfs.store.index.tensor_records import TensorRow
from modelfs.store.store import Store

Record = TypeVar("Record")


@dataclass(slots=True)
class Counts:
    """The sums of all chunk records."""

    chunks: int = 0
    totals: dict[bytes, int] = field(default_factory=dict)  # by counter
    live_bytes: dict[int, int] = field(default_factory=dict)  # by pack
    chunks_by_pack: dict[int, list[ChunkId]] = field(default_factory=dict)


@dataclass(slots=True)
class References:
    """The sums of all extents, by chunk."""

    extents: dict[ChunkId, int] = field(default_factory=dict)
    bytes: dict[ChunkId, int] = field(default_factory=dict)


@dataclass(slots=True)
class Derivations:
    """The sums of all rows of lineage."""

    dependants: dict[ChunkId, int] = field(default_factory=dict)  # by source
    derived: set[ChunkId] = field(default_factory=set)


class CheckView:
    """A store's index without its broken rows, and sums over its rows."""

    def __init__(
        self, store: Store, broken: Mapping[Table, Collection[bytes]] | None = None
    ) -> None:
        """Make a view; `broken` are the keys of the rows to pass over, by table."""
        self.store = store
        self.index = store.index
        self.broken: Mapping[Table, Collection[bytes]] = broken or dict.fromkeys(Table, ())

    # -- rows

    def rows(
        self, table: Table, decode: Callable[[bytes, bytes], Record]
    ) -> Iterator[tuple[bytes, Record]]:
        """Yield the key and record of every row of a table that is not broken."""
        for key, value in self.pages(table):
            yield key, decode(key, value)

    def pages(
        self, table: Table, start: bytes = b"", stop: bytes = KEY_END
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield every row of a table that is not broken and whose key is in `[start, stop)`."""
        broken = self.broken[table]
        for key, value in self.index.pages(table, start, stop, damaged=set()):
            if key not in broken:
                yield key, value

    def inodes(self) -> Iterator[Inode]:
        return (node for _, node in self.rows(Table.INODES, Inode.from_row))

    def chunks(self) -> Iterator[tuple[ChunkId, Chunk]]:
        for key, record in self.rows(Table.CHUNKS, Chunk.from_row):
            yield ChunkId(number_of(key)), record

    def extents(self) -> Iterator[tuple[InodeNumber, Extent]]:
        for key, extent in self.rows(Table.EXTENTS, Extent.from_row):
            yield InodeNumber(number_of(key)), extent

    def packs(self) -> Iterator[tuple[int, PackRow]]:
        for key, row in self.rows(Table.PACKS, PackRow.from_row):
            yield number_of(key), row

    def has(self, table: Table, key: bytes) -> bool:
        return self.index.has(table, key)

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return the value of a row, None if there is none or it is broken."""
        return None if key in self.broken[table] else self.index.get(table, key)

    def inode(self, inode: int) -> Inode | None:
        return self.find(Table.INODES, number_key(inode), Inode.from_row)

    def chunk(self, chunk: int) -> Chunk | None:
        return self.find(Table.CHUNKS, number_key(chunk), Chunk.from_row)

    def find(
        self, table: Table, key: bytes, decode: Callable[[bytes, bytes], Record]
    ) -> Record | None:
        """Return the record of a row, None if there is none or it is broken."""
        value = self.get(table, key)
        return None if value is None else decode(key, value)

    def is_current(self, table: Table, key: bytes) -> bool:
        """Whether no daemon has changed a row since the check began."""
        rows = self.index.rows
        return not rows.others_write or rows.newest(table, key) == self.index.get(table, key)

    def path(self, inode: int) -> bytes:
        """Return a path of an inode, or its number where names are damaged too."""
        return self.store.namespace.path_of(InodeNumber(inode))

    def tensors(self, inode: int, start: int, stop: int) -> Iterator[str]:
        """Yield the names of a file's tensors that have a byte in `[start, stop)`."""
        rows = self.pages(Table.TENSORS, pair_key(inode, 0), pair_key(inode, stop))
        for key, value in rows:
            tensor = TensorRow.from_row(key, value)
            if tensor.start + tensor.size > start:
                yield tensor.name

    # -- lineage

    def linked(self, table: Table) -> Iterator[tuple[ChunkId, ChunkId]]:
        """Yield the keys of a table of lineage."""
        return (pair for _, pair in self.rows(table, decode_link))

    def links(self) -> Iterator[tuple[ChunkId, ChunkId]]:
        """Yield each chunk with each source that either table has."""
        yield from self.linked(Table.SOURCES)
        for source, chunk in self.linked(Table.DEPENDANTS):
            key = pair_key(chunk, source)
            if not self.has(Table.SOURCES, key) or key in self.broken[Table.SOURCES]:
                yield chunk, source

    def sources(self, chunk: ChunkId) -> list[ChunkId]:
        return self.store.chunks.lineage.sources(chunk)

    # -- sums

    @cached_property
    def counts(self) -> Counts:
        counts = Counts()
        for chunk, record in self.chunks():
            counts.chunks += 1
            for name, amount in chunk_counts(record).items():
                counts.totals[name] = counts.totals.get(name, 0) + amount
            if record.is_lost:
                continue
            counts.chunks_by_pack.setdefault(record.pack, []).append(chunk)
            if record.alive:
                live = counts.live_bytes.get(record.pack, 0)
                counts.live_bytes[record.pack] = live + record.stored
        return counts

    @cached_property
    def references(self) -> References:
        references = References()
        extents, sizes = references.extents, references.bytes
        for _, extent in self.extents():
            extents[extent.chunk] = extents.get(extent.chunk, 0) + 1
            sizes[extent.chunk] = sizes.get(extent.chunk, 0) + extent.length
        return references

    @cached_property
    def inode_totals(self) -> dict[int, Totals]:
        """The right totals of each inode that has rows."""
        return count_totals(self.pages)

    @cached_property
    def derivations(self) -> Derivations:
        derivations = Derivations()
        for chunk, source in self.links():
            derivations.dependants[source] = derivations.dependants.get(source, 0) + 1
            derivations.derived.add(chunk)
        return derivations

    @cached_property
    def missing(self) -> dict[ChunkId, int]:
        """By chunk, the bytes of extents that its record counts and that no map has."""
        extents, sizes = self.references.extents, self.references.bytes
        return {
            chunk: record.ref_bytes - sizes.get(chunk, 0)
            for chunk, record in self.chunks()
            if record.refs > extents.get(chunk, 0) and record.ref_bytes > sizes.get(chunk, 0)
        }

    @cached_property
    def surplus(self) -> dict[ChunkId, int]:
        """By chunk, the bytes of extents that maps have and that its record does not count."""
        extents, sizes = self.references.extents, self.references.bytes
        return {
            chunk: sizes[chunk] - record.ref_bytes
            for chunk, record in self.chunks()
            if record.refs < extents.get(chunk, 0) and record.ref_bytes < sizes[chunk]
        }

    def users(self, chunks: Collection[ChunkId]) -> dict[ChunkId, dict[bytes, None]]:
        """Return the paths of the files with extents of these chunks, in order.

        Costs a walk over all extents, if there are chunks.
        """
        users: dict[ChunkId, dict[bytes, None]] = {chunk: {} for chunk in chunks}
        for inode, extent in self.extents() if users else ():
            if extent.chunk in users:
                users[extent.chunk][self.path(inode)] = None
        return users

    def holes(self) -> Iterator[tuple[InodeNumber, int, int]]:
        """Yield inode, start and stop of the holes in files."""
        for node in self.inodes():
            for start, stop in self.holes_of(node):
                yield node.inode, start, stop

    def holes_of(self, node: Inode) -> RangeSet:
        """Return the holes in a file; none if the inode is no regular file, or has no name."""
        if not stat.S_ISREG(node.mode) or not node.nlink:
            return RangeSet()
        trim = self.find(Table.TRIMS, number_key(node.inode), decode_number)
        holes = RangeSet([(0, min(node.size, KEY_MAX if trim is None else trim))])
        keys = pair_key(node.inode, 0), pair_key(node.inode + 1, 0)
        for key, value in self.pages(Table.EXTENTS, *keys):
            extent = Extent.from_row(key, value)
            holes.remove(extent.start, extent.stop)
        for key, value in self.pages(Table.STAGED, *keys):
            for start, stop in WindowRanges.from_row(key, value).ranges:
                holes.remove(start, stop)
        return holes
