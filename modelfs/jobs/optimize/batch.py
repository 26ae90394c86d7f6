"""What came of a batch of the optimizer, on its way from the work to the index."""

import dataclasses
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from modelfs.codecs.elements import Element
from modelfs.jobs.optimize.forms import Form
from modelfs.sketches.sketch import Sketch
from modelfs.store.chunks.writer import ChunkWriter, WriteResult
from modelfs.store.index.records import Chunk, ChunkKind, TensorRow
from modelfs.store.index.tables import ChunkId, InodeNumber

NOBODY: Final = InodeNumber(0)


@dataclass(frozen=True, slots=True)
class Batch:
    """Tensors of one file that come next; or chunks that are held, and no file."""

    inode: InodeNumber = NOBODY
    request: bytes = b""  # what made the file unsettled; empty if a walk came to it
    rows: tuple[TensorRow, ...] = ()
    last: bool = False  # there are no more in the file
    bases: tuple[ChunkId, ...] = ()

    @property
    def bytes(self) -> int:
        return sum(row.size for row in self.rows)


@dataclass(frozen=True, slots=True)
class Target:
    """A chunk to be settled, and where in its tensor it lies."""

    chunk: ChunkId
    record: Chunk
    start: int
    is_whole: bool = True  # all of the chunk is in the tensor


@dataclass(slots=True)
class BatchResult:
    """What was appended, and what else is to be noted."""

    batch: Batch
    written: WriteResult
    before: dict[ChunkId, Chunk] = field(default_factory=dict)  # records of what was written
    unchanged: dict[ChunkId, int] = field(default_factory=dict)  # with the code of their element
    sketches: list[tuple[InodeNumber, TensorRow, Sketch]] = field(default_factory=list)
    claimed: set[ChunkId] = field(default_factory=set)
    damaged: int = 0  # chunks that could not be read, or tensors of which nothing could
    stopped: bool = False

    def claim(self, chunk: ChunkId) -> bool:
        """Say whether the batch comes to this chunk for the first time; from now on it has."""
        is_new = chunk not in self.claimed
        self.claimed.add(chunk)
        return is_new

    def put(self, target: Target, form: Form, element: Element, writer: ChunkWriter) -> None:
        """Append a chunk's form, unless it is plain and stays so."""
        chunk, record = target.chunk, target.record
        if form.kind is record.kind is ChunkKind.PLAIN:
            self.unchanged[chunk] = element.code
            return
        self.before[chunk] = record
        new = dataclasses.replace(
            record, kind=form.kind, codec=form.codec, optimized=True, element=element.code
        )
        writer.replace(chunk, new, form.stored, form.sources)

    def take_unchanged(self, limit: int) -> list[tuple[ChunkId, int]]:
        """Hand over the next of the chunks that are as they were."""
        return [(chunk, self.unchanged.pop(chunk)) for chunk in list(islice(self.unchanged, limit))]
