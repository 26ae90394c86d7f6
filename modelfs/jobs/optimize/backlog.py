"""The backlog of the optimizer: the tensors and base-only chunks to work on, and their order.

Theory of operation. Ingest stores tensors plain, which is fast, and lists the file in TO_OPTIMIZE.
The optimizer goes through these files, oldest first, a *batch* of tensors at a time, in the three
parts that other jobs have, too:

1. Plan: `Backlog.next_batch` (any thread) reads the index, and returns the next tensors.
2. Work: `Worker.work` (any thread) reads their chunks, finds candidates, encodes, decodes and
   compares, and appends smaller forms to packs, in file order. It changes nothing else.
3. Apply: `Publisher` and `Applier` (owner's thread) put the new forms into the chunks' records, in
   slices, if neither a chunk nor its sources have changed meanwhile.

A chunk that was worked on is *optimized*, in a new form or not, so other files that share it skip
it. That is all the state: after a stop or a crash, a run begins again with the file it was at.

A chunk without references that others derive from is *base-only*: its last file is gone. Before any
tensor, the dependants of base-only chunks are re-encoded without them, and then gc frees those; or
the chunks are *kept*, if the dependants would take more.

Example. A store has base.safetensors. A fine-tune with 1,200 small tensors is ingested, and listed.
The first batch has 512 of them (`BATCH_TENSORS`), the second 512, the third 176 and ends the file:
its row in TO_OPTIMIZE is deleted. Then base.safetensors is removed. The next batches have its
base-only chunks, 64 each; when the dependants of all are re-encoded, or all are kept, the backlog
is empty.
"""

import contextlib
from dataclasses import dataclass
from itertools import islice
from typing import Final

from modelfs.errors import CorruptIndex
from modelfs.jobs.optimize.batch import Batch, BatchResult
from modelfs.store.chunks.lineage import DEPTH
from modelfs.store.index.counters import OPTIMIZE_AGAIN, OPTIMIZE_DEPTH, OPTIMIZE_WALK
from modelfs.store.index.index import KEY_END
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import (
    KEY_MAX,
    ChunkId,
    InodeNumber,
    Table,
    number_key,
    number_of,
    pair_key,
    pair_of,
)
from modelfs.store.index.tensor_records import TensorRow
from modelfs.store.store import Store

# The size of a batch: its tensors are in memory, and encoded again if the batch is rolled back.
BATCH_BYTES: Final = 64 << 20
# With little room batches are smaller: the new forms of a batch are written before the old ones go.
BATCH_BYTES_MIN: Final = 4 << 20
BATCH_ROOM_PART: Final = 0.25
BATCH_TENSORS: Final = 512
BATCH_BASES: Final = 64


@dataclass(frozen=True, slots=True)
class OptimizeStatus:
    """The work that is left."""

    files: int  # in TO_OPTIMIZE, or still before a walk over all files
    bytes: int  # of these files
    base_only_chunks: int  # that were not kept


class Backlog:
    """The queue of the optimizer, and the position of a run. Owner's thread, but `next_batch`."""

    def __init__(self, store: Store) -> None:
        self._index = store.index
        self._counters = store.counters
        self._inodes = store.inodes
        self._staging = store.staging
        self._space = store.space
        self._batch_bytes = BATCH_BYTES
        self._base_only = store.base_only
        # The file of the next batch, an offset in it, and its row in TO_OPTIMIZE.
        self._position: tuple[InodeNumber, int, bytes] | None = None
        self._ended: set[InodeNumber] = set()  # files of this run; listed again, they wait
        self._stuck: set[ChunkId] = set()  # base-only chunks that this run could not free
        self.damaged = 0  # unreadable chunks and tensors of this run, left in their form

    @property
    def depth(self) -> int:
        """The largest number of deltas between a chunk and stored bytes."""
        return self._counters.get(OPTIMIZE_DEPTH) or DEPTH

    @property
    def include_optimized(self) -> bool:
        """Whether the run works on chunks that are optimized already, too."""
        return self._counters.get(OPTIMIZE_AGAIN) > 0

    def begin(self, depth: int | None = None, *, include_optimized: bool = False) -> None:
        """Begin a run. Files and base-only chunks that the last run skipped are tried again.

        Args:
            depth: of this run and later ones; None: unchanged.
            include_optimized: work on all files, and on chunks that are optimized already. If the
                run is stopped, the next ones go on with that.
        """
        self._position = None  # its file may have been listed again since
        self._ended.clear()
        self._stuck.clear()
        self.damaged = 0
        if depth is not None and depth != self.depth:
            with self._index.change():
                self._counters.set(OPTIMIZE_DEPTH, depth)
        if include_optimized:
            with self._index.change():
                self._counters.set(OPTIMIZE_WALK, 1)
                self._counters.set(OPTIMIZE_AGAIN, 1)

    def has_work(self) -> bool:
        """Whether anything is listed, or a walk is in progress."""
        tables = (Table.TO_OPTIMIZE, Table.BASE_ONLY)
        return self._counters.get(OPTIMIZE_WALK) > 0 or any(
            self._index.scan(table, b"", KEY_END, 1, damaged=set()) for table in tables
        )

    def version(self) -> tuple[int, ...]:
        """Return numbers of which one changes whenever the work may have changed."""
        tables = (Table.TO_OPTIMIZE, Table.BASE_ONLY)
        return self._counters.get(OPTIMIZE_WALK), *map(self._index.version, tables)

    def status(self) -> OptimizeStatus:
        """Return the work that is left. Any thread; reads the record of each file in it."""
        inodes = [InodeNumber(number_of(key)) for key in self._index.keys(Table.TO_OPTIMIZE)]
        if walk := self._counters.get(OPTIMIZE_WALK):
            rest = self._index.keys(Table.INODES, number_key(walk))
            inodes = [inode for inode in inodes if inode < walk]
            inodes += [InodeNumber(number_of(key)) for key in rest]
        nodes = [node for inode in inodes if (node := self.find_inode(inode)) is not None]
        bases = sum(1 for _ in self._base_only.chunks(with_kept=self.include_optimized))
        return OptimizeStatus(len(nodes), sum(node.size for node in nodes), bases)

    def find_inode(self, inode: InodeNumber) -> Inode | None:
        """Return an inode record, None if it is gone or damaged.

        Damage is an error to a program that opens the file, but does not stop the optimizer.
        """
        with contextlib.suppress(CorruptIndex):
            return self._inodes.find(inode)
        return None

    # -- the next batch

    def fit_batches(self) -> None:
        """Let the next batches be no larger than the room allows."""
        fitting = int(BATCH_ROOM_PART * self._space.working_bytes)
        self._batch_bytes = min(BATCH_BYTES, max(BATCH_BYTES_MIN, fitting))

    def next_batch(self) -> Batch | None:
        """Return the next batch, None if the backlog is empty. Any thread, one at a time."""
        if (bases := self.next_bases(with_kept=self.include_optimized)) is not None:
            return bases
        position = self._position  # once: `begin` may reset it at any time
        if position is None and (position := self._next_file()) is not None:
            self._position = position
        if position is None:
            return None
        inode, start, request = position
        rows: list[TensorRow] = []
        size = 0
        keys = pair_key(inode, start), pair_key(inode, KEY_MAX)
        for key, value in self._index.pages(Table.TENSORS, *keys, damaged=set()):
            if size >= self._batch_bytes or len(rows) >= BATCH_TENSORS:
                break
            rows.append(TensorRow.from_bytes(pair_of(key)[1], value))
            size += rows[-1].size
        ends_file = size < self._batch_bytes and len(rows) < BATCH_TENSORS
        return Batch(inode, request, tuple(rows), ends_file)

    def next_bases(self, *, with_kept: bool = False) -> Batch | None:
        """Return the next batch of base-only chunks, None if there is none. Any thread.

        Args:
            with_kept: try chunks that an earlier run decided to keep, too.
        """
        bases = self._base_only.chunks(with_kept=with_kept)
        due = (chunk for chunk, _ in bases if chunk not in self._stuck)
        base_only = tuple(islice(due, BATCH_BASES))
        return Batch(base_only=base_only) if base_only else None

    def _next_file(self) -> tuple[InodeNumber, int, bytes] | None:
        """Return the position of the next file: a listed one, or else the next of a walk.

        A walk goes over the tensors of all files: in a store of format 1, which had no list, and
        in a run that includes optimized chunks.
        """
        for key, request in self._index.pages(Table.TO_OPTIMIZE, damaged=set()):
            inode = InodeNumber(number_of(key))
            # A file with staged bytes is listed again when it is complete.
            if inode not in self._ended and self._staging.find(inode) is None:
                return inode, 0, request
        if not (walk := self._counters.get(OPTIMIZE_WALK)):
            return None
        row = self._index.scan(Table.TENSORS, pair_key(walk, 0), KEY_END, 1, damaged=set())
        # At the end of the walk, a file that does not exist: its batch is empty, and ends the walk.
        return InodeNumber(number_of(row[0][0]) if row else KEY_MAX), 0, b""

    def advance(self, result: BatchResult) -> None:
        """Set the position behind a batch whose result was applied.

        At its end, a file is taken from the list, unless it was listed again, or the walk is moved
        behind it.
        """
        batch = result.batch
        self.damaged += result.damaged
        if result.stopped:
            return
        if batch.base_only:
            self._stuck.update(batch.base_only)  # those that are still base-only
            return
        if self._position is None:
            return  # reset by `begin`
        if not batch.ends_file:
            self._position = batch.inode, batch.rows[-1].start + 1, batch.request
            return
        self._position = None
        self._ended.add(batch.inode)
        key = number_key(batch.inode)
        with self._index.change():
            with contextlib.suppress(CorruptIndex):  # a damaged row stays, and is passed over
                if self._index.get(Table.TO_OPTIMIZE, key) == batch.request:
                    self._index.delete(Table.TO_OPTIMIZE, key)
            # A listed file is worked on before the walk reaches it, and does not move the walk.
            if not batch.request and self._counters.get(OPTIMIZE_WALK):
                is_last = batch.inode == KEY_MAX
                self._counters.set(OPTIMIZE_WALK, 0 if is_last else batch.inode + 1)
                if is_last:
                    self._counters.set(OPTIMIZE_AGAIN, 0)
