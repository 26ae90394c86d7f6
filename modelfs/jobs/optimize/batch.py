"""A batch of the optimizer, and the records that plan, work and apply exchange about it."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from modelfs.codecs.elements import Element
from modelfs.jobs.optimize.forms import Form
from modelfs.sketches.sketch import Sketch
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.index.chunk_records import Chunk, ChunkKind
from modelfs.store.index.tables import ChunkId, InodeNumber
from modelfs.store.index.tensor_records import TensorRow

NO_FILE: Final = InodeNumber(0)


@dataclass(frozen=True, slots=True)
class Batch:
    """The next tensors of one file; or base-only chunks, and no file."""

    inode: InodeNumber = NO_FILE
    request: bytes = b""  # the file's row in TO_OPTIMIZE; empty if the file was not listed there
    rows: tuple[TensorRow, ...] = ()
    ends_file: bool = False  # these are the last tensors of the file
    base_only: tuple[ChunkId, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(row.size for row in self.rows)


@dataclass(frozen=True, slots=True)
class Target:
    """A chunk to encode."""

    chunk: ChunkId
    record: Chunk
    start: int  # offset of its first byte in the tensor
    is_whole: bool = True  # all of the chunk is in the tensor


NewSketch = tuple[InodeNumber, TensorRow, Sketch]


@dataclass(frozen=True, slots=True)
class BatchResult:
    """The forms that a batch appended, durably, and other results to record."""

    batch: Batch
    written: WriteResult
    old_records: Mapping[ChunkId, Chunk]  # of chunks with a new form, as the worker read them
    unchanged: Mapping[ChunkId, int]  # chunks that stay plain, with the code of their element
    sketches: Sequence[NewSketch]
    kept: Mapping[ChunkId, int]  # base-only chunks to keep, with their number of dependants
    damaged: int  # unreadable chunks, and tensors of which no chunk could be read
    stopped: bool  # the worker was stopped before the end of the batch


class BatchOutput:
    """Collects the results of a batch during the work. One thread."""

    def __init__(self, batch: Batch, writer: ChunkWriter) -> None:
        self._batch = batch
        self._writer = writer
        self._old_records: dict[ChunkId, Chunk] = {}
        self._unchanged: dict[ChunkId, int] = {}
        self._claimed: set[ChunkId] = set()
        self.sketches: list[NewSketch] = []
        self._kept: dict[ChunkId, int] = {}
        self.damaged = 0

    def claim(self, chunk: ChunkId) -> bool:
        """Mark a chunk as taken up; False if it was before in this batch."""
        is_new = chunk not in self._claimed
        self._claimed.add(chunk)
        return is_new

    def put(self, target: Target, form: Form, element: Element) -> None:
        """Append a chunk's form, unless a plain chunk stays plain.

        Raises:
            OSError: the disk is full or failed.
        """
        chunk, record = target.chunk, target.record
        if form.kind is record.kind is ChunkKind.PLAIN:
            self._unchanged[chunk] = element.code
            return
        self._old_records[chunk] = record
        new = dataclasses.replace(
            record,
            kind=form.kind,
            codec=form.codec,
            content_checksum=form.content_checksum,  # a record of format 1 has none
            optimized=True,
            element=element.code,
        )
        self._writer.replace(chunk, new, form.stored, form.sources)

    def keep(self, bases: Mapping[ChunkId, Chunk]) -> None:
        """Keep base-only chunks without which their dependants would not take less."""
        self._kept.update({chunk: record.dependants for chunk, record in bases.items()})

    def finish(self, *, stopped: bool) -> BatchResult:
        """Make the appended forms durable, and return all results.

        Raises:
            OSError: the disk is full or failed.
        """
        written = self._writer.finish()
        return BatchResult(
            self._batch,
            written,
            self._old_records,
            self._unchanged,
            self.sketches,
            self._kept,
            self.damaged,
            stopped,
        )
