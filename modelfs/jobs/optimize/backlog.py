"""The backlog of the optimizer: which tensors are to get their smallest form, and in what order.

Theory of operation. Ingest stores tensors plain, which is fast, and lists the file in TO_OPTIMIZE.
The optimizer goes through these files, oldest first, a *batch* of tensors at a time, in three parts
as other jobs have them:

1. Plan: `Backlog.next_batch` (any thread) reads the index, and returns the next tensors.
2. Work: `Worker.work` (any thread) reads their chunks, finds similar tensors, encodes, decodes,
   compares, and appends what is smaller to packs, in file order. It changes nothing else.
3. Apply: `Applier` (owner's thread), in slices, lets the records of the chunks say so, if neither
   they nor what they are to derive from changed meanwhile.

A chunk that was looked at is *optimized*, whatever came of it, so files that share it pass over it.
That is all that is remembered: a run that is stopped or killed goes on with the file it was at.

A chunk whose last file is gone while others derive from it is *base-only*. Before anything else,
the chunks that derive from base-only ones are re-encoded without them; then gc frees those.

Example. A store has base.safetensors, and a fine-tune of it with two tensors of 3 MiB comes. Its
batch has both tensors, six chunks. Each tensor's sketch leads to the base's tensor of that name;
each chunk is tried as a delta to the base's chunk in the same place, and by itself; the delta takes
30 % of the size. Six deltas, 2 MiB, are appended; their records then have the base's chunks as
sources.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from modelfs.errors import CorruptIndex
from modelfs.jobs.optimize.batch import Batch, BatchResult
from modelfs.store.chunks.lineage import DEPTH
from modelfs.store.index.counters import OPTIMIZE_AGAIN, OPTIMIZE_DEPTH, OPTIMIZE_WALK
from modelfs.store.index.index import KEY_END
from modelfs.store.index.records import Inode, TensorRow
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
from modelfs.store.store import Store

# Tensors of a batch together: it is in memory, and done again if it is given up.
BATCH_BYTES: Final = 64 << 20
BATCH_TENSORS: Final = 512
BASES_SLICE: Final = 64


@dataclass(frozen=True, slots=True)
class OptimizeStatus:
    """What is left to do."""

    files: int  # listed, or not come to yet by a walk over all
    bytes: int  # of these files
    base_only_chunks: int


class Backlog:
    """What is to be optimized, and how far a run is. For the owner, but for `next_batch`."""

    def __init__(self, store: Store) -> None:
        self._index = store.index
        self._counters = store.counters
        self._inodes = store.inodes
        self._staging = store.staging
        self._at: tuple[InodeNumber, int, bytes] | None = None  # in the middle of a file
        self._passed: set[InodeNumber] = set()  # files that have to wait
        self._stuck: set[ChunkId] = set()  # base-only chunks that nothing could be done about
        self.damaged = 0  # chunks and tensors that this run left as they are: they are unreadable

    @property
    def depth(self) -> int:
        """How many deltas may stand between a chunk and stored bytes."""
        return self._counters.get(OPTIMIZE_DEPTH) or DEPTH

    @property
    def include_optimized(self) -> bool:
        """Whether chunks are looked at that are optimized already."""
        return self._counters.get(OPTIMIZE_AGAIN) > 0

    def begin(self, depth: int | None = None, *, include_optimized: bool = False) -> None:
        """Begin a run: what was passed over in the last one is looked at again.

        Args:
            depth: how many deltas may follow one another, from now on; None: as before.
            include_optimized: look at all files, and at chunks that are optimized already. A run
                that is stopped goes on with that.
        """
        self._at = None  # its file may have been listed once more since
        self._passed.clear()
        self._stuck.clear()
        self.damaged = 0
        if depth is not None and depth != self.depth:
            with self._index.change():
                self._counters.set(OPTIMIZE_DEPTH, depth)
        if include_optimized:
            with self._index.change():
                self._counters.set(OPTIMIZE_WALK, 1)
                self._counters.set(OPTIMIZE_AGAIN, 1)

    def status(self) -> OptimizeStatus:
        inodes = [InodeNumber(number_of(key)) for key, _ in self._index.pages(Table.TO_OPTIMIZE)]
        if walk := self._counters.get(OPTIMIZE_WALK):
            rest = self._index.pages(Table.INODES, number_key(walk))
            inodes = [each for each in inodes if each < walk]
            inodes += [InodeNumber(number_of(key)) for key, _ in rest]
        nodes = [node for inode in inodes if (node := self._node(inode)) is not None]
        bases = sum(1 for _ in self._index.pages(Table.BASE_ONLY))
        return OptimizeStatus(len(nodes), sum(node.size for node in nodes), bases)

    def _node(self, inode: InodeNumber) -> Inode | None:
        try:
            return self._inodes.find(inode)
        except CorruptIndex:
            return None  # as good as gone here; whoever opens it is told

    # -- what comes next

    def next_batch(self) -> Batch | None:
        """Return what comes next, None if nothing does. Any thread, one at a time."""
        if bases := self._base_only():
            return Batch(bases=bases)
        at = self._at  # once: `begin` may forget it at any time
        if at is None and (found := self._next_file()) is not None:
            self._at = at = found[0], 0, found[1]
        if at is None:
            return None
        inode, position, request = at
        rows = tuple(self._rows(inode, position))
        last = sum(row.size for row in rows) < BATCH_BYTES and len(rows) < BATCH_TENSORS
        return Batch(inode, request, rows, last)

    def _base_only(self) -> tuple[ChunkId, ...]:
        rows = self._index.pages(Table.BASE_ONLY)
        found = (ChunkId(number_of(key)) for key, _ in rows)
        return tuple(islice((each for each in found if each not in self._stuck), BASES_SLICE))

    def _next_file(self) -> tuple[InodeNumber, bytes] | None:
        for key, value in self._index.pages(Table.TO_OPTIMIZE):
            inode = InodeNumber(number_of(key))
            # What is still being written is listed once more when it is whole.
            if inode not in self._passed and self._staging.find(inode) is None:
                return inode, value
        return self._walked()

    def _walked(self) -> tuple[InodeNumber, bytes] | None:
        # Of a store that was of format 1, whose files nobody listed; or because all are to be done
        # again.
        if not (start := self._counters.get(OPTIMIZE_WALK)):
            return None
        row = self._index.scan(Table.TENSORS, pair_key(start, 0), KEY_END, 1)
        return (InodeNumber(number_of(row[0][0])), b"") if row else (InodeNumber(KEY_MAX), b"")

    def _rows(self, inode: InodeNumber, position: int) -> Iterator[TensorRow]:
        size = count = 0
        keys = pair_key(inode, position), pair_key(inode, KEY_MAX)
        for key, value in self._index.pages(Table.TENSORS, *keys):
            if size >= BATCH_BYTES or count >= BATCH_TENSORS:
                return
            row = TensorRow.from_bytes(pair_of(key)[1], value)
            size, count = size + row.size, count + 1
            yield row

    def move_on(self, result: BatchResult) -> None:
        """Go on behind a batch whose result was applied."""
        batch = result.batch
        self.damaged += result.damaged
        if result.stopped:
            return
        if batch.bases:
            self._stuck.update(batch.bases)  # those that are held still
            return
        if self._at is None:
            return
        if not batch.last:
            self._at = batch.inode, batch.rows[-1].start + 1, batch.request
            return
        self._at = None
        self._end_file(batch)

    def _end_file(self, batch: Batch) -> None:
        key = number_key(batch.inode)
        self._passed.add(batch.inode)
        with self._index.change():
            if self._index.get(Table.TO_OPTIMIZE, key) == batch.request:
                self._index.delete(Table.TO_OPTIMIZE, key)
            # A file that was listed is done before the walk comes to it, and does not move it on.
            if not batch.request and self._counters.get(OPTIMIZE_WALK):
                ended = batch.inode == KEY_MAX
                self._counters.set(OPTIMIZE_WALK, 0 if ended else batch.inode + 1)
                if ended:
                    self._counters.set(OPTIMIZE_AGAIN, 0)
