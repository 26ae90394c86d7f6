"""What the invariants of `check` look at: one state of a store, and what they report.

A record that does not decode is reported once, when all rows are read. The other invariants pass
over it, and do not count anew what it was a part of.
"""

import enum
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from typing import Any, Self, TypeVar

from modelfs.errors import CorruptData
from modelfs.store.index.chunk_records import Chunk, PackRow
from modelfs.store.index.counters import chunk_counts
from modelfs.store.index.decoders import decode_link, decode_number
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent, Inode, StagedWindow, TensorRow
from modelfs.store.index.tables import (
    KEY_MAX,
    ChunkId,
    InodeNumber,
    Table,
    number_key,
    number_of,
    pair_key,
)
from modelfs.store.store import Store

Record = TypeVar("Record")


class Severity(enum.StrEnum):
    """How bad a finding is."""

    DAMAGE = "damage"  # bytes or names are lost, wrong or cannot be read
    ACCOUNT = "account"  # every file reads right, but what is counted about them is wrong


@dataclass(frozen=True, slots=True)
class Finding:
    """An invariant that does not hold."""

    invariant: str  # a short name that stays the same in all versions
    message: str  # one line
    files: tuple[bytes, ...] = ()  # paths of the files hurt
    tensors: tuple[str, ...] = ()  # names of the tensors hurt
    severity: Severity = Severity.DAMAGE

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON can hold it."""
        return asdict(self) | {"files": [os.fsdecode(file) for file in self.files]}

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> Self:
        """Return the finding that `to_dict` told of."""
        return cls(
            told["invariant"],
            told["message"],
            tuple(os.fsencode(file) for file in told["files"]),
            tuple(told["tensors"]),
            Severity(told["severity"]),
        )


@dataclass(slots=True)
class Counts:
    """What the chunk records add up to."""

    chunks: int = 0
    counters: dict[bytes, int] = field(default_factory=dict)
    live: dict[int, int] = field(default_factory=dict)  # by pack
    packed: dict[int, list[ChunkId]] = field(default_factory=dict)  # by pack


@dataclass(slots=True)
class References:
    """What the extents say of each chunk."""

    uses: dict[ChunkId, int] = field(default_factory=dict)
    used: dict[ChunkId, int] = field(default_factory=dict)  # bytes


@dataclass(slots=True)
class Links:
    """What the rows of lineage say of each chunk."""

    pins: dict[ChunkId, int] = field(default_factory=dict)
    derived: set[ChunkId] = field(default_factory=set)


@dataclass(slots=True)
class Impact:
    """Who uses a damaged chunk, or one that derives from it."""

    files: dict[bytes, None] = field(default_factory=dict)
    tensors: dict[str, None] = field(default_factory=dict)
    derived: int = 0  # how many chunks need it
    base: str = ""  # a file, and a tensor, that use it itself

    def add(self, path: bytes, tensors: Iterable[str], *, directly: bool) -> None:
        """Add a file, and the tensors of it that are hurt."""
        names = dict.fromkeys(tensors)
        self.files[path] = None
        self.tensors |= names
        if directly and not self.base:
            self.base = ": ".join([os.fsdecode(path), *list(names)[:1]])

    @property
    def told(self) -> str:
        """What a message about the chunk has to say besides: that others need it, and its file."""
        if not self.derived:
            return ""
        return f"; chunks that derive from it: {self.derived}; it is in {self.base or 'no file'}"


@dataclass(slots=True)
class KnownLoss:
    """What the store knows to be lost."""

    chunks: int = 0
    bytes: int = 0  # of files, those included that derive from what is lost
    hurt: Impact = field(default_factory=Impact)


class CheckView:
    """A store's index, read for checking."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.index = store.index
        self.broken: dict[Table, set[bytes]] = {table: set() for table in Table}
        self.misnamed: set[InodeNumber] = set()  # whose names were reported already
        self.lost_packs: dict[int, int] = {}  # reported already, with the bytes that are there
        self.damaged: set[ChunkId] = set()  # their content was read, and is not what it was
        self.baseless: set[ChunkId] = set()  # derived from what does not exist; reported already
        self.endless: set[ChunkId] = set()  # derived from themselves; reported already
        self.too_long: set[ChunkId] = set()  # derived in too many steps; reported already
        self.lineage_doubtful = False  # whether rows of lineage were reported
        self.bytes_checked = 0

    # -- rows

    def rows(
        self, table: Table, decode: Callable[[bytes, bytes], Record]
    ) -> Iterator[tuple[bytes, Record]]:
        """Yield the key and record of every row of a table that decodes."""
        broken = self.broken[table]
        for key, value in self.index.pages(table):
            if key not in broken:
                yield key, decode(key, value)

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
        return self.index.get(table, key) is not None

    def inode(self, inode: int) -> Inode | None:
        return self.find(Table.INODES, number_key(inode), Inode.from_row)

    def chunk(self, chunk: int) -> Chunk | None:
        return self.find(Table.CHUNKS, number_key(chunk), Chunk.from_row)

    def find(
        self, table: Table, key: bytes, decode: Callable[[bytes, bytes], Record]
    ) -> Record | None:
        """Return the record of a row, None if it is not there or does not decode."""
        value = self.index.get(table, key)
        return None if value is None or key in self.broken[table] else decode(key, value)

    def is_current(self, table: Table, key: bytes) -> bool:
        """Whether a row is still what it was when the check began: a daemon may be at work."""
        return self.index.get_newest(table, key) == self.index.get(table, key)

    # -- lineage

    def linked(self, table: Table) -> Iterator[tuple[ChunkId, ChunkId]]:
        """Yield the keys of a table of lineage."""
        return (pair for _, pair in self.rows(table, decode_link))

    def links(self) -> Iterator[tuple[ChunkId, ChunkId]]:
        """Yield each chunk with each source that either table tells of."""
        yield from self.linked(Table.SOURCES)
        for source, chunk in self.linked(Table.DEPENDANTS):
            key = pair_key(chunk, source)
            if not self.has(Table.SOURCES, key) or key in self.broken[Table.SOURCES]:
                yield chunk, source

    def sources(self, chunk: ChunkId) -> list[ChunkId]:
        return self.store.chunks.lineage.sources(chunk)

    @cached_property
    def links_of(self) -> Links:
        found = Links()
        for chunk, source in self.links():
            found.pins[source] = found.pins.get(source, 0) + 1
            found.derived.add(chunk)
        return found

    # -- sums

    @cached_property
    def census(self) -> Counts:
        census = Counts()
        for chunk, record in self.chunks():
            census.chunks += 1
            for name, amount in chunk_counts(record).items():
                census.counters[name] = census.counters.get(name, 0) + amount
            if record.is_lost:
                continue
            census.packed.setdefault(record.pack, []).append(chunk)
            if record.alive:
                census.live[record.pack] = census.live.get(record.pack, 0) + record.stored
        return census

    @cached_property
    def usage(self) -> References:
        usage = References()
        for _, extent in self.extents():
            usage.uses[extent.chunk] = usage.uses.get(extent.chunk, 0) + 1
            usage.used[extent.chunk] = usage.used.get(extent.chunk, 0) + extent.length
        return usage

    @cached_property
    def missing(self) -> int:
        """How many bytes of extents there are less than the chunks' records count."""
        return sum(
            record.ref_bytes - self.usage.used.get(chunk, 0)
            for chunk, record in self.chunks()
            if record.refs > self.usage.uses.get(chunk, 0)
            and record.ref_bytes > self.usage.used.get(chunk, 0)
        )

    def holes(self, longest: int) -> Iterator[tuple[InodeNumber, int, int]]:
        """Yield inode, start and stop of all holes up to a length that files have in their maps."""
        rows = groupby(self.extents(), key=itemgetter(0))
        mapped = {inode: [(each.start, each.stop) for _, each in group] for inode, group in rows}
        for node in self.inodes():
            if stat.S_ISREG(node.mode) and node.nlink:
                trim = self.find(Table.TRIMS, number_key(node.inode), decode_number)
                filled = RangeSet(mapped.get(node.inode, []))
                for low, high in self._staged(node.inode):
                    filled.add(low, high)
                holes = RangeSet([(0, min(node.size, KEY_MAX if trim is None else trim))])
                for low, high in filled:
                    holes.remove(low, high)
                for low, high in holes:
                    if high - low <= longest:
                        yield node.inode, low, high

    def _staged(self, inode: int) -> Iterator[tuple[int, int]]:
        keys = pair_key(inode, 0), pair_key(inode + 1, 0)
        for key, value in self.index.pages(Table.STAGED, *keys):
            if key not in self.broken[Table.STAGED]:
                yield from StagedWindow.from_row(key, value).ranges

    # -- whom it hurts

    def path(self, inode: int) -> bytes:
        """Return a path of an inode, or its number where names are damaged too."""
        try:
            return self.store.namespace.path_of(InodeNumber(inode))
        except CorruptData:
            return b"(inode %d)" % inode

    def tensors(self, inode: int, start: int, stop: int) -> Iterator[str]:
        """Yield the names of a file's tensors that have a byte in `[start, stop)`."""
        rows = self.index.pages(Table.TENSORS, pair_key(inode, 0), pair_key(inode, stop))
        for key, value in rows:
            if key not in self.broken[Table.TENSORS]:
                tensor = TensorRow.from_row(key, value)
                if tensor.start + tensor.size > start:
                    yield tensor.name

    def users(self, chunks: Collection[ChunkId]) -> dict[ChunkId, Impact]:
        """Return who uses each of these chunks, or one that derives from it.

        Costs a walk over all extents.
        """
        found = {chunk: Impact() for chunk in chunks}
        causes: dict[ChunkId, list[ChunkId]] = {chunk: [chunk] for chunk in chunks}
        for base, hurt in found.items():
            for chunk in self.store.chunks.lineage.descendants(base):
                hurt.derived += 1
                causes.setdefault(chunk, []).append(base)
        for inode, extent in self.extents():
            if (bases := causes.get(extent.chunk)) is not None:
                path = self.path(inode)
                tensors = list(self.tensors(inode, extent.start, extent.stop))
                for base in bases:
                    found[base].add(path, tensors, directly=extent.chunk == base)
        return found

    def losses(self) -> KnownLoss:
        """Return what was lost for good, unless a good copy comes. Costs what `users` does."""
        lost = {chunk for chunk, record in self.chunks() if record.is_lost}
        unreadable = lost.union(*map(self.store.chunks.lineage.descendants, lost))
        records = filter(None, map(self.chunk, unreadable))
        loss = KnownLoss(len(lost), sum(record.ref_bytes for record in records))
        for hurt in self.users(lost).values() if lost else ():
            loss.hurt.files |= hurt.files
            loss.hurt.tensors |= hurt.tensors
        return loss

    def chunk_finding(self, invariant: str, message: str, chunks: Collection[ChunkId]) -> Finding:
        """Return a finding about damaged chunks, with whom it hurts."""
        users = self.users(chunks).values()
        files = dict.fromkeys(path for each in users for path in each.files)
        tensors = dict.fromkeys(name for each in users for name in each.tensors)
        told = "".join(each.told for each in users) if len(chunks) == 1 else ""
        return Finding(invariant, message + told, tuple(files), tuple(tensors))

    def chunk_findings(self, invariant: str, problems: Mapping[ChunkId, str]) -> Iterator[Finding]:
        """Yield a finding for each damaged chunk, with whom it hurts."""
        users = self.users(problems) if problems else {}
        for chunk, problem in problems.items():
            hurt = users[chunk]
            message = problem + hurt.told
            yield Finding(invariant, message, tuple(hurt.files), tuple(hurt.tensors))
