"""`RepairContext`: the store, the changes and the report of one round of repair."""

import enum
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from modelfs.codecs.base import CodecId
from modelfs.errors import CorruptIndex
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.check.view import CheckView
from modelfs.jobs.repair.quarantine import Quarantine
from modelfs.store.files.inode_totals import TOTALS_SINCE
from modelfs.store.index.chunk_records import UNKNOWN, Chunk, ChunkKind
from modelfs.store.index.counters import NEXT_CHUNK, NEXT_INODE
from modelfs.store.index.decoders import DECODERS
from modelfs.store.index.records import Extent, Inode
from modelfs.store.index.tables import (
    ChunkId,
    InodeNumber,
    PackId,
    Table,
    number_key,
    pair_key,
)
from modelfs.store.store import Store


class Outcome(enum.StrEnum):
    """The outcome of a repair."""

    REPAIRED = "mended"  # as it was before the damage, or as good
    QUARANTINED = "quarantined"  # something is lost, and its remains are in quarantine


@dataclass(frozen=True, slots=True)
class Action:
    """One repair, and its outcome."""

    outcome: Outcome
    message: str  # one line
    files: tuple[bytes, ...] = ()  # paths of the files that lost something
    tensors: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the action as JSON can hold it."""
        return asdict(self) | {"files": [os.fsdecode(file) for file in self.files]}


class RepairContext:
    """The store and the report of a round, which all passes share.

    The passes make one change of the index. The result of one that another needs is an argument.
    """

    def __init__(self, store: Store, quarantine: Quarantine, reported: Reported) -> None:
        """Begin a round; `reported` is the damage that the check before it found."""
        self.store = store
        self.index = store.index
        self.quarantine = quarantine
        self.reported = reported
        self.actions: list[Action] = []
        # Whether inode records had totals when the round began.
        self.has_totals = store.superblock.version >= TOTALS_SINCE
        self._lost_chunk: ChunkId | None = None

    # -- the report

    def repaired(self, message: str, files: Iterable[bytes] = ()) -> None:
        self.actions.append(Action(Outcome.REPAIRED, message, tuple(files)))

    def quarantined(
        self, message: str, files: Iterable[bytes] = (), tensors: Iterable[str] = ()
    ) -> None:
        self.actions.append(Action(Outcome.QUARANTINED, message, tuple(files), tuple(tensors)))

    # -- rows

    def rows(self, table: Table) -> Iterator[tuple[bytes, Any]]:
        """Yield the key and record of every row; after the first pass all rows decode."""
        decode = DECODERS[table]
        for key, value in self.index.pages(table):
            yield key, decode(key, value)

    def put_chunk(self, chunk: ChunkId, record: Chunk) -> None:
        self.index.put(Table.CHUNKS, number_key(chunk), record.to_bytes())
        # Chunks and transposed tensors that derive from it are decoded again.
        self.store.chunk_reader.forget_all()

    def drop(self, table: Table, key: bytes, why: str) -> None:
        """Remove a row, and keep it in quarantine with the reason."""
        try:
            value = self.index.get(table, key)
        except CorruptIndex:
            value = self.index.rows.stored(table, key)
        if value is not None:
            self.quarantine.add_row(table, key, value, why)
            self.index.delete(table, key)

    def replace_rows(self, table: Table, rows: Mapping[bytes, bytes]) -> int:
        """Give a table these rows and no others, and return how many of its rows changed."""
        missing = dict(rows)
        changes: list[tuple[bytes, bytes | None]] = []
        for key, value in self.index.pages(table):
            if (right := missing.pop(key, None)) != value:
                changes.append((key, right))
        changes += missing.items()
        for key, right in changes:
            if right is None:
                self.index.delete(table, key)
            else:
                self.index.put(table, key, right)
        return len(changes)

    # -- inodes

    def node(self, inode: int) -> Inode | None:
        return self.store.inodes.find(InodeNumber(inode))

    def put_node(self, node: Inode) -> None:
        # The totals are recounted at the end of a round.
        self.index.put(Table.INODES, number_key(node.inode), node.to_bytes())

    def new_inode(self) -> InodeNumber:
        return InodeNumber(self.store.counters.allocate(NEXT_INODE))

    def path(self, inode: int) -> bytes:
        return self.view().path(inode)

    def view(self) -> CheckView:
        """Return a view of the store in its present state, in which every row decodes."""
        return CheckView(self.store)

    # -- lost ranges of files

    def lost_chunk(self) -> ChunkId:
        """Return the lost chunk of this round, for ranges whose chunks are unknown."""
        if self._lost_chunk is None:
            self._lost_chunk = ChunkId(self.store.counters.allocate(NEXT_CHUNK))
            record = Chunk(
                kind=ChunkKind.LOST,
                codec=CodecId.RAW,
                size=self.store.superblock.chunk_size,
                pack=PackId(0),
                offset=0,
                stored=0,
                refs=1,  # until the uses are counted, at the end of the round
                ref_bytes=0,
                checksum=0,
                digest=UNKNOWN,
            )
            self.index.put(Table.CHUNKS, number_key(self._lost_chunk), record.to_bytes())
        return self._lost_chunk

    def lose(self, inode: int, start: int, stop: int) -> None:
        """Map a range of a file to a lost chunk, so that reads of it fail."""
        number = InodeNumber(inode)
        for old in list(self.store.maps.overlapping(number, start, stop)):
            self.index.delete(Table.EXTENTS, pair_key(inode, old.start))
            for low, high in ((old.start, start), (stop, old.stop)):
                if low < high:
                    self.put_extent(inode, old.part(low, high))
        step = self.store.superblock.chunk_size
        for at in range(start, stop, step):
            self.put_extent(inode, Extent(at, self.lost_chunk(), 0, min(step, stop - at)))

    def put_extent(self, inode: int, extent: Extent) -> None:
        self.index.put(Table.EXTENTS, pair_key(inode, extent.start), extent.to_bytes())
