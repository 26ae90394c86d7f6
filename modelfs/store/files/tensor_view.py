"""A tensor as it is stored: which runs of which chunks its bytes are."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from modelfs.codecs.elements import Element, element_of
from modelfs.codecs.factored import Grid
from modelfs.sketches.rows import row_size
from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.chunks.recipe import SourceRun
from modelfs.store.files.filemap import FileMaps
from modelfs.store.index.records import TensorRow
from modelfs.store.index.tables import InodeNumber


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """A run of a chunk, and where it lies in the tensor."""

    start: int
    run: SourceRun

    @property
    def stop(self) -> int:
        return self.start + self.run.length


class TensorView:
    """One tensor of a file, as the file's map has it now. Any thread.

    What a chunk's bytes are never changes, so the view stays readable for as long as its chunks
    are needed by something, whatever becomes of the file.
    """

    def __init__(
        self, maps: FileMaps, reader: ChunkReader, inode: InodeNumber, row: TensorRow
    ) -> None:
        self.inode = inode
        self.row = row
        self._reader = reader
        extents = maps.within(inode, row.start, row.start + row.size)
        self.stretches = [
            ChunkSpan(each.start - row.start, SourceRun(each.chunk, each.skip, each.length))
            for each in extents
        ]
        self._stops = [each.stop for each in self.stretches]

    @property
    def size(self) -> int:
        return self.row.size

    @property
    def element(self) -> Element:
        return element_of(self.row.dtype)

    def grid(self, start: int) -> Grid | None:
        """Return where in a matrix the bytes from `start` on lie; None if the shape has none."""
        width = self.element.width
        row = row_size(self.row.shape, width, self.size)
        return Grid(row // width, start % row // width) if row and start % width == 0 else None

    def runs(self, start: int, stop: int) -> tuple[SourceRun, ...] | None:
        """Return what the bytes `[start, stop)` of the tensor are; None where some are in no chunk.

        A file that is being written to has such tensors, and one with holes.
        """
        found = list(self._within(start, stop))
        if not found or sum(run.length for run in found) != stop - start:
            return None
        return tuple(found)

    def _within(self, start: int, stop: int) -> Iterator[SourceRun]:
        for at in range(bisect_right(self._stops, start), len(self.stretches)):
            each = self.stretches[at]
            if each.start >= stop:
                return
            low, high = max(start, each.start), min(stop, each.stop)
            chunk, skip, _ = each.run
            yield SourceRun(chunk, skip + low - each.start, high - low)

    def read(self, start: int, stop: int) -> bytes | None:
        """Return bytes of the tensor, None where `runs` does.

        Raises:
            CorruptChunk: a chunk of it is damaged.
        """
        found = self.runs(start, stop)
        return None if found is None else self._reader.gather(found)
