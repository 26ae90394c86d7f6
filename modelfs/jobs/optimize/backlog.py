"""The optimizer: gives each chunk of a tensor its smallest exact form.

Theory of operation. Ingest stores tensors plain, which is fast, and lists the file as *unsettled*.
The optimizer goes through these files, oldest first, a *batch* of tensors at a time, in three parts
as ingest and scrub have them:

1. `next_batch` (any thread) reads the index, and says which tensors come next.
2. `Settler.work` (any thread) reads their chunks, finds relatives, encodes, decodes, compares, and
   appends what is smaller to packs, in file order. It changes nothing else.
3. `take` (owner's thread), in slices, lets the records of the chunks say so, if neither they nor
   what they are to derive from changed meanwhile.

A chunk that was looked at is *settled*, whatever came of it, so that files which share it pass over
it. That is all there is to remember: a run that is stopped, or killed, goes on with the file it was
at, and with what is not settled there.

A chunk whose last file is gone while others derive from it is *held*. Before anything else, what
derives from held chunks is written anew without them; then gc may have them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from modelfs.errors import CorruptIndex
from modelfs.jobs.optimize.batch import Batch, BatchResult
from modelfs.jobs.optimize.similarity import SimilarityIndex
from modelfs.store.chunks.lineage import DEPTH
from modelfs.store.chunks.table import Chunks
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.staging import Staging
from modelfs.store.index.counters import Counters
from modelfs.store.index.index import KEY_END, Index
from modelfs.store.index.records import Chunk, Inode, TensorRow
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

# Tensors of a batch together: it is in memory, and done again if it is given up.
BATCH_BYTES: Final = 64 << 20
BATCH_TENSORS: Final = 512
BASES_SLICE: Final = 64
# What is noted in one go, so that no request waits long: a sketch is up to 40 rows.
CHUNKS_SLICE: Final = 200
SKETCHES_SLICE: Final = 10

# Where a walk over all files goes on, listed or not; 0 without one.
WALK: Final = b"optimize.walk"
DEPTH_TOTAL: Final = b"optimize.depth"
# 1 while that walk is to look at what is settled, too.
AGAIN: Final = b"optimize.again"


@dataclass(frozen=True, slots=True)
class OptimizeStatus:
    """What is left to do."""

    files: int  # unsettled, or not come to yet by a walk over all
    bytes: int  # of these files
    base_only_chunks: int


class Backlog:
    """Says what is to be settled, and takes what was. For the owner, but for `next_batch`."""

    def __init__(
        self,
        index: Index,
        inodes: Inodes,
        chunks: Chunks,
        staging: Staging,
        similarity: SimilarityIndex,
    ) -> None:
        self._index = index
        self._counters = Counters(index)
        self._inodes = inodes
        self._chunks = chunks
        self._staging = staging
        self._similarity = similarity
        self._at: tuple[InodeNumber, int, bytes] | None = None  # in the middle of a file
        self._passed: set[InodeNumber] = set()  # files that have to wait
        self.damaged = 0  # things that this run left as they are, since they cannot be read
        self._stuck: set[ChunkId] = set()  # held chunks that nothing could be done about

    @property
    def depth(self) -> int:
        """How many deltas may stand between a chunk and stored bytes."""
        return self._counters.get(DEPTH_TOTAL) or DEPTH

    @property
    def again(self) -> bool:
        """Whether chunks are looked at that are settled."""
        return self._counters.get(AGAIN) > 0

    def begin(self, depth: int | None = None, *, again: bool = False) -> None:
        """Begin a run: what was passed over in the last one is looked at again.

        Args:
            depth: from now on; None: as before.
            again: look at what is settled, too. A run that is stopped goes on with that.
        """
        self._at = None  # its file may have been listed once more since
        self._passed.clear()
        self._stuck.clear()
        self.damaged = 0
        if depth is not None and depth != self.depth:
            with self._index.change():
                self._counters.set(DEPTH_TOTAL, depth)
        if again:
            self.walk_all(again=True)

    def walk_all(self, *, again: bool = False) -> None:
        """Look at all files, whether they are listed or not."""
        with self._index.change():
            self._counters.set(WALK, 1)
            self._counters.set(AGAIN, int(again))

    def status(self) -> OptimizeStatus:
        inodes = [InodeNumber(number_of(key)) for key, _ in self._index.pages(Table.TO_OPTIMIZE)]
        if walk := self._counters.get(WALK):
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
        if bases := self._held():
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

    def _held(self) -> tuple[ChunkId, ...]:
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
        if not (start := self._counters.get(WALK)):
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

    # -- what came of it

    def take(self, result: BatchResult) -> bool:
        """Take over a slice of what came of a batch; say whether that is all of it.

        After `Intake.take_written`, which asks `admits`.
        """
        with self._index.change():
            for chunk, code in result.take_unchanged(CHUNKS_SLICE):
                if self._is_sound(chunk):
                    self._chunks.mark_optimized(chunk, code)
            for _ in range(min(SKETCHES_SLICE, len(result.sketches))):
                inode, row, sketch = result.sketches.pop()
                if self._node(inode) is not None:
                    self._similarity.note(inode, row, sketch)
        if result.unchanged or result.sketches:
            return False
        self._move_on(result)
        return True

    def admits(self, result: BatchResult, chunk: ChunkId, new: Chunk) -> bool:
        """Whether a chunk may have its new form: it and its sources are what they were."""
        old, now = result.before.get(chunk), self._chunks.find(chunk)
        if old is None or now is None or (now.pack, now.offset) != (old.pack, old.offset):
            return False
        sources = result.written.sources[chunk]
        if not all(self._is_sound(source) for source in sources):
            return False
        lineage = self._chunks.lineage
        return not sources or lineage.may_derive(
            chunk, new.codec, sources, self._chunks.find, self.depth
        )

    def _is_sound(self, source: ChunkId) -> bool:
        found = self._chunks.find(source)
        # What is only held is to be let go, and not to be needed once more.
        return found is not None and found.refs > 0 and not found.is_lost

    def _move_on(self, result: BatchResult) -> None:
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
            if not batch.request and self._counters.get(WALK):
                ended = batch.inode == KEY_MAX
                self._counters.set(WALK, 0 if ended else batch.inode + 1)
                if ended:
                    self._counters.set(AGAIN, 0)
