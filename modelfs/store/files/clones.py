"""Clones: ranges of files that get the extents of others, so that no byte is copied.

A clone takes the extents of a range, as they are, to another place, of the same file or another.
It is an edit of the map there (see `map_edits`), so it is made in slices. Holes are cloned, too.
Staged bytes have no extents: a clone ends before them, and its caller copies them.

Example. A file of 1 GiB in 1,024 chunks is copied. 11 slices put its extents into the map of the
new file, and each chunk counts one more ref. The new file has a staged state without windows, which
is its size. A second after the close, a pass of ingest compares the map with the layout, finds each
piece in an extent of its own, and records the tensors and the size.
"""

import dataclasses
from collections.abc import Generator

from modelfs.store.files.content import Contents
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.flush import Flusher
from modelfs.store.files.map_edits import MapEdits
from modelfs.store.files.staging import Staging
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import InodeNumber


class Clones:
    """Clones ranges of files."""

    def __init__(
        self,
        contents: Contents,
        staging: Staging,
        maps: FileMaps,
        flusher: Flusher,
        edits: MapEdits,
    ) -> None:
        self._contents = contents
        self._staging = staging
        self._maps = maps
        self._flusher = flusher
        self._edits = edits

    def clone(
        self, source: InodeNumber, start: int, stop: int, target: InodeNumber, at: int
    ) -> Generator[None, None, int]:
        """Clone the begin of a range, as much of it as one slice has.

        Yields before, once for each slice of an earlier truncation of the target.

        Args:
            source: the file of the range. None of its extents is missing (see `Holes.check`).
            start: of the range.
            stop: of the range.
            target: the file that gets it. In the same file, the two ranges do not overlap.
            at: where it gets it, in bytes from its start.

        Returns:
            The number of bytes. 0 if the first one is staged, or behind the end of the source.

        Raises:
            NotFound: there is no such inode.
            CorruptIndex: the records of a file are damaged, or a chunk has none.
        """
        yield from self._flusher.trim(target)  # from here on without a wait
        stop = min(stop, self._contents.node(source).size)
        stop, _ = self.first_staged(source, start, stop)
        if start >= stop:
            return 0
        stop = start + self._edits.end_of_slice(target, at, at + stop - start) - at
        stop = self._edits.end_of_slice(source, start, stop)
        extents = [
            dataclasses.replace(extent, start=extent.start - start + at)
            for extent in self._visible(source, start, stop)
        ]
        end = at + stop - start
        self._edits.put(target, at, end, extents)
        staged = self._contents.staged(target)
        staged.size = max(staged.size, end)
        return stop - start

    def first_staged(self, inode: InodeNumber, start: int, stop: int) -> tuple[int, int]:
        """Return the first staged range inside a range; an empty one at its end if none is."""
        staged = self._staging.find(inode)
        parts = () if staged is None else staged.within(start, stop)
        return next(((low, high) for _, low, high in parts), (stop, stop))

    def _visible(self, inode: InodeNumber, start: int, stop: int) -> list[Extent]:
        """Return the extents of a range, without those that a truncation hides."""
        staged = self._staging.find(inode)
        if staged is not None:
            stop = staged.map_end(stop)
        return [*self._maps.within(inode, start, stop)] if start < stop else []
