"""The layout of a file: which bytes of each tensor are staged, in which chunk, or in a hole."""

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from modelfs.store.files.overlay import overlay
from modelfs.store.files.staged_file import StagedFile
from modelfs.store.files.window import Window
from modelfs.store.index.chunk_records import Chunk
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import Extent, Inode
from modelfs.store.index.tables import ChunkId, InodeNumber, Table, pair_key, pair_of
from modelfs.store.index.tensor_records import TensorRow
from modelfs.store.store import Store

STAGED: Final = "staged"
HOLE: Final = "hole"
# The map refers to a chunk that the index does not have; or a hole, where extents are missing.
MISSING: Final = "missing"


@dataclass(frozen=True, slots=True)
class FileState:
    """A copy of a file's inode record and content state, for any thread."""

    node: Inode
    staged: StagedFile

    @property
    def inode(self) -> InodeNumber:
        return self.node.inode


class ChunkPart(NamedTuple):
    """The bytes of one chunk that a part of the file has."""

    record: Chunk | None  # None: the chunk is missing
    form: str  # as `stats` calls it, or MISSING
    ranges: RangeSet  # in the chunk


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of the file, or all of its bytes that lie in no tensor."""

    tensor: TensorRow | None
    forms: Counter[str] = field(default_factory=Counter)  # bytes of the file by their form
    chunks: dict[ChunkId, ChunkPart] = field(default_factory=dict)

    def add(self, extent: Extent, record: Chunk | None) -> None:
        """Count an extent, all of which lies in this part."""
        if (chunk_part := self.chunks.get(extent.chunk)) is None:
            form = MISSING if record is None else record.form
            chunk_part = self.chunks[extent.chunk] = ChunkPart(record, form, RangeSet())
        chunk_part.ranges.add(extent.skip, extent.skip + extent.length)
        self.forms[chunk_part.form] += extent.length


def parts_of(store: Store, file: FileState) -> list[Part]:
    """Return the parts of a file: its tensors in file order, and last the bytes of no tensor."""
    record_of = functools.cache(store.chunks.find)

    def mapped(inode: InodeNumber, start: int, stop: int) -> Iterator[tuple[Extent, Chunk | None]]:
        for extent in store.maps.within(inode, start, stop):
            yield extent, record_of(extent.chunk)

    @functools.cache
    def hole_form() -> str:
        return MISSING if store.contents.lacks_extents(file.inode) else HOLE

    rows = store.index.pages(Table.TENSORS, pair_key(file.inode, 0), pair_key(file.inode + 1, 0))
    tensors = [Part(TensorRow.from_bytes(pair_of(key)[1], value)) for key, value in rows]
    rest = Part(None)
    for part, start, stop in _regions(tensors, rest, file.staged.size):
        for low, high, source in overlay(file.inode, file.staged, start, stop, mapped):
            if source is None:
                form = HOLE if file.staged.hides_map(low) else hole_form()
                part.forms[form] += high - low
            elif isinstance(source, Window):
                part.forms[STAGED] += high - low
            else:
                part.add(*source)
    return [*tensors, rest]


def _regions(tensors: Sequence[Part], rest: Part, size: int) -> Iterator[tuple[Part, int, int]]:
    """Tile a file of `size` bytes: yield the part, start and stop of each region."""
    at = 0
    for part in tensors:
        assert part.tensor is not None
        start = min(part.tensor.start, size)
        stop = min(part.tensor.start + part.tensor.size, size)
        if at < start:
            yield rest, at, start
        if start < stop:
            yield part, start, stop
        at = max(at, stop)
    if at < size:
        yield rest, at, size


def records_of(parts: Sequence[Part]) -> dict[ChunkId, Chunk | None]:
    """Return the records of all chunks of these parts; None of a missing one."""
    return {chunk: chunk_part.record for part in parts for chunk, chunk_part in part.chunks.items()}
