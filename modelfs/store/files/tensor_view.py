"""Tensor views: the bytes of one tensor as runs of chunks.

Example. A tensor of 3,000 bytes begins at byte 100 of its file; chunks of 2,000 bytes begin at 0
and 2,000. Its spans are (0, chunk 7, skip 100, 1,900 bytes) and (1,900, chunk 8, skip 0, 1,100
bytes). `runs(1,800, 2,000)` returns (chunk 7, skip 1,900, 100 bytes) and (chunk 8, skip 0, 100
bytes), the form in which a recipe lists its sources.
"""

from bisect import bisect_right
from dataclasses import dataclass

from modelfs.codecs.elements import Element, element_of
from modelfs.codecs.factored import Grid
from modelfs.sketches.rows import row_size
from modelfs.store.chunks.reader import ChunkReader
from modelfs.store.chunks.recipe import SourceRun
from modelfs.store.files.filemap import FileMaps
from modelfs.store.index.tables import InodeNumber
from modelfs.store.index.tensor_records import TensorRow


@dataclass(frozen=True, slots=True)
class ChunkSpan:
    """A run of a chunk, at offset `start` of the tensor."""

    start: int
    run: SourceRun

    @property
    def stop(self) -> int:
        return self.start + self.run.length


class TensorView:
    """One tensor of a file, by the file's map at the time of construction. Any thread.

    A chunk's content never changes. So the view stays readable while its chunks are alive, even
    though the file is changed or removed.
    """

    def __init__(
        self, maps: FileMaps, reader: ChunkReader, inode: InodeNumber, row: TensorRow
    ) -> None:
        self.inode = inode
        self.row = row
        self._reader = reader
        extents = maps.within(inode, row.start, row.start + row.size)
        self.spans = [
            ChunkSpan(extent.start - row.start, SourceRun(extent.chunk, extent.skip, extent.length))
            for extent in extents
        ]
        self._stops = [span.stop for span in self.spans]

    @property
    def size(self) -> int:
        return self.row.size

    @property
    def element(self) -> Element:
        return element_of(self.row.dtype)

    def grid(self, start: int) -> Grid | None:
        """Return the matrix position of byte `start` of the tensor, None if it is in no matrix."""
        width = self.element.width
        row = row_size(self.row.shape, width, self.size)
        return Grid(row // width, start % row // width) if row and start % width == 0 else None

    def runs(self, start: int, stop: int) -> tuple[SourceRun, ...] | None:
        """Return the runs that make up the bytes `[start, stop)` of the tensor.

        None if there are no such bytes, or some are in no chunk: the file has a hole there, or is
        being written.
        """
        runs: list[SourceRun] = []
        for at in range(bisect_right(self._stops, start), len(self.spans)):
            span = self.spans[at]
            if span.start >= stop:
                break
            low, high = max(start, span.start), min(stop, span.stop)
            chunk, skip, _ = span.run
            runs.append(SourceRun(chunk, skip + low - span.start, high - low))
        if not runs or sum(run.length for run in runs) != stop - start:
            return None
        return tuple(runs)

    def read(self, start: int, stop: int) -> bytes | None:
        """Return the bytes `[start, stop)` of the tensor, None if `runs` returns None.

        Raises:
            CorruptChunk: a chunk of these bytes is damaged or missing.
            OSError: the disk failed.
        """
        runs = self.runs(start, stop)
        return None if runs is None else self._reader.gather(runs)
