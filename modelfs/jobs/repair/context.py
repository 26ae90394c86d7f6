"""One round of repair: the store as it is, what is changed in it, and what is told of that."""

import enum
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from modelfs.codecs.base import CodecId
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.check.view import CheckView
from modelfs.jobs.repair.quarantine import Quarantine
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
    """What came of something damaged."""

    MENDED = "mended"  # it is what it was, or as good
    QUARANTINED = "quarantined"  # something is lost, and what was left of it set aside


@dataclass(frozen=True, slots=True)
class Action:
    """What repair did."""

    outcome: Outcome
    message: str  # one line
    files: tuple[bytes, ...] = ()  # paths of the files that lost something
    tensors: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self) | {"files": [os.fsdecode(file) for file in self.files]}


class RepairContext:
    """What the passes of a round share. All changes are one change of the index."""

    def __init__(self, store: Store, quarantine: Quarantine, reported: Reported) -> None:
        """Begin a round; `reported` is the damage that the check before it has reported."""
        self.store = store
        self.index = store.index
        self.quarantine = quarantine
        self.reported = reported
        self.actions: list[Action] = []
        self.unreadable: dict[Table, list[bytes]] = {}  # keys of rows that did not decode
        self.missing_bytes = 0  # of extents that chunks count and that are not there
        self._nowhere: ChunkId | None = None

    # -- telling

    def repaired(self, message: str, files: Iterable[bytes] = ()) -> None:
        self.actions.append(Action(Outcome.MENDED, message, tuple(files)))

    def quarantined(
        self, message: str, files: Iterable[bytes] = (), tensors: Iterable[str] = ()
    ) -> None:
        self.actions.append(Action(Outcome.QUARANTINED, message, tuple(files), tuple(tensors)))

    # -- rows

    def rows(self, table: Table) -> Iterator[tuple[bytes, Any]]:
        """Yield the key and record of every row. After the first pass, all of them decode."""
        decode = DECODERS[table]
        for key, value in self.index.pages(table):
            yield key, decode(key, value)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self.index.put(table, key, value)

    def put_chunk(self, chunk: ChunkId, record: Chunk) -> None:
        self.put(Table.CHUNKS, number_key(chunk), record.to_bytes())
        self.store.cache.forget(chunk)  # chunks that derive from it are decoded again

    def drop(self, table: Table, key: bytes, why: str) -> None:
        """Remove a row, and keep it in quarantine."""
        if (value := self.index.get(table, key)) is not None:
            self.quarantine.add_row(table, key, value, why)
            self.index.delete(table, key)

    def settle(self, table: Table, wanted: Mapping[bytes, bytes]) -> int:
        """Let a table have these rows and no others, and return how many were changed."""
        missing = dict(wanted)
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
        # The totals are counted anew at the end of a round.
        self.put(Table.INODES, number_key(node.inode), node.to_bytes())

    def new_inode(self) -> InodeNumber:
        return InodeNumber(self.store.counters.allocate(NEXT_INODE))

    def path(self, inode: int) -> bytes:
        return self.view().path(inode)

    def view(self) -> CheckView:
        """Return a view of the store as it is now, in which every row decodes."""
        return CheckView(self.store)

    # -- what is lost

    def nowhere(self) -> ChunkId:
        """Return a lost chunk for ranges of which nothing is known but that they are lost."""
        if self._nowhere is None:
            self._nowhere = ChunkId(self.store.counters.allocate(NEXT_CHUNK))
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
            self.put(Table.CHUNKS, number_key(self._nowhere), record.to_bytes())
        return self._nowhere

    def lost_extents(self, start: int, stop: int) -> Iterator[Extent]:
        """Yield extents that let a range of a file be read by nobody."""
        step = self.store.superblock.chunk_size
        for at in range(start, stop, step):
            yield Extent(at, self.nowhere(), 0, min(step, stop - at))

    def lose(self, inode: int, start: int, stop: int) -> None:
        """Let a range of a file be lost, whatever its map has there."""
        number = InodeNumber(inode)
        for old in list(self.store.maps.overlapping(number, start, stop)):
            self.index.delete(Table.EXTENTS, pair_key(inode, old.start))
            for low, high in ((old.start, start), (stop, old.stop)):
                if low < high:
                    self.put_extent(inode, old.part(low, high))
        for extent in self.lost_extents(start, stop):
            self.put_extent(inode, extent)

    def put_extent(self, inode: int, extent: Extent) -> None:
        self.put(Table.EXTENTS, pair_key(inode, extent.start), extent.to_bytes())
