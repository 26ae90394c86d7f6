"""A batch of the optimizer: what comes next, what is tried, and what came of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from modelfs.codecs.elements import Element
from modelfs.jobs.optimize.forms import Form
from modelfs.sketches.sketch import Sketch
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.index.records import Chunk, ChunkKind, TensorRow
from modelfs.store.index.tables import ChunkId, InodeNumber

NO_FILE: Final = InodeNumber(0)


@dataclass(frozen=True, slots=True)
class Batch:
    """The next tensors of one file; or base-only chunks, and no file."""

    inode: InodeNumber = NO_FILE
    request: bytes = b""  # the file's row in TO_OPTIMIZE; empty if a walk came to it
    rows: tuple[TensorRow, ...] = ()
    last: bool = False  # there are no more in the file
    bases: tuple[ChunkId, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(row.size for row in self.rows)


@dataclass(frozen=True, slots=True)
class Target:
    """A chunk to be optimized, and where in its tensor it lies."""

    chunk: ChunkId
    record: Chunk
    start: int
    is_whole: bool = True  # all of the chunk is in the tensor


NewSketch = tuple[InodeNumber, TensorRow, Sketch]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What came of a batch: what was appended, durably, and what else is to be recorded."""

    batch: Batch
    written: WriteResult
    before: Mapping[ChunkId, Chunk]  # records of the chunks that were appended in a new form
    unchanged: Mapping[ChunkId, int]  # chunks that stay as they are, with their element's code
    sketches: Sequence[NewSketch]
    damaged: int  # chunks that could not be read, or tensors of which nothing could
    stopped: bool  # the batch was not done to its end


class BatchOutput:
    """Collects what comes of a batch while it is worked on. One thread."""

    def __init__(self, batch: Batch, writer: ChunkWriter) -> None:
        self._batch = batch
        self._writer = writer
        self._before: dict[ChunkId, Chunk] = {}
        self._unchanged: dict[ChunkId, int] = {}
        self._claimed: set[ChunkId] = set()
        self.sketches: list[NewSketch] = []
        self.damaged = 0

    def claim(self, chunk: ChunkId) -> bool:
        """Claim a chunk; False if the batch has come to it before."""
        is_new = chunk not in self._claimed
        self._claimed.add(chunk)
        return is_new

    def put(self, target: Target, form: Form, element: Element) -> None:
        """Append a chunk's form, unless it is plain and stays so.

        Raises:
            OSError: the disk is full or failed.
        """
        chunk, record = target.chunk, target.record
        if form.kind is record.kind is ChunkKind.PLAIN:
            self._unchanged[chunk] = element.code
            return
        self._before[chunk] = record
        new = dataclasses.replace(
            record, kind=form.kind, codec=form.codec, optimized=True, element=element.code
        )
        self._writer.replace(chunk, new, form.stored, form.sources)

    def finish(self, *, stopped: bool) -> BatchResult:
        """Make what was appended durable, and return all that came of the batch.

        Raises:
            OSError: the disk is full or failed.
        """
        written = self._writer.finish()
        return BatchResult(
            self._batch,
            written,
            self._before,
            self._unchanged,
            self.sketches,
            self.damaged,
            stopped,
        )
