"""Edits of file maps: a range of a file gets new extents, or becomes a hole.

Theory of operation. An edit gives a range new extents, or none, and drops its staged bytes. No
content is read or written, so it costs as much as the extents that it removes and adds, whatever
their bytes. It is made in slices, each of them one change of the index, which is as good as a
write: a reader gets the content before it or after it, and a crash leaves one of them. Until a
flush, a crash may leave older bytes in those places that have durable bytes in a staging file.

The rows change as for a slice of ingest (see `flush`). A truncation is recorded first, and the map
behind the recorded size is hidden: after a crash, extents that made the file longer are there if a
flush has recorded the size. Ingest undoes no edit: `StagedFile.edits` counts them, and extents that
were made before one are not applied. Each edit of the map requests a pass of ingest, since the
tensors of the file may be others now.

A whole staging file (see `whole_file`) hides the map, and the kernel reads it. So a hole is punched
into the file itself, and it gets no extents.

Example. A file has 1 GiB in 1,024 chunks, and 4 KiB of chunk 5 are staged. A hole is punched from
the middle of chunk 3 to the middle of chunk 7: in one change of the index, three extents go, and
two become shorter. Then the staged bytes are dropped; their row stays in the index until a flush.
Had the range 250 extents, there would be three such changes.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from modelfs.store.files.content import Contents
from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.flush import Flusher
from modelfs.store.index.index import Index
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import InodeNumber, Table, number_key, request_value

# Extents that one slice removes, and that it adds, so that no request waits long.
EDIT_SLICE: Final = 100


class MapEdits:
    """Gives ranges of files new extents, or none."""

    def __init__(self, index: Index, contents: Contents, maps: FileMaps, flusher: Flusher) -> None:
        self._index = index
        self._contents = contents
        self._maps = maps
        self._flusher = flusher

    def punch(self, inode: InodeNumber, start: int, stop: int) -> Iterator[None]:
        """Make a range of a file a hole, up to the end of the file; yields after each slice.

        Raises:
            NotFound: there is no such inode.
            CorruptIndex: the file's records are damaged.
            NotSupported: it has a whole staging file, on a disk without holes.
            OSError: the disk failed.
        """
        while start < (end := min(stop, self._contents.node(inode).size)):
            staged = self._contents.staged(inode)
            if staged.whole is None:
                end = self.end_of_slice(inode, start, end)
                self.put(inode, start, end, ())
            else:
                staged.whole.punch(start, end)
                staged.replaced(start, end)
            start = end
            yield

    def end_of_slice(self, inode: InodeNumber, start: int, stop: int) -> int:
        """Return the end of a range, or of its first `EDIT_SLICE` extents if it has more."""
        found = self._maps.following(inode, start, EDIT_SLICE + 1)
        return min(stop, found[EDIT_SLICE].start) if len(found) > EDIT_SLICE else stop

    def put(self, inode: InodeNumber, start: int, stop: int, new: Sequence[Extent]) -> None:
        """Give a range extents in the place of its content, in one slice.

        Args:
            inode: of the file.
            start: of the range.
            stop: of the range, see `end_of_slice`.
            new: its extents. If there are any, no map is hidden (see `Flusher.trim`).

        Raises:
            NotFound, CorruptIndex: as `punch`, or a chunk of the new extents has no record.
        """
        staged = self._contents.staged(inode)
        assert staged.whole is None, "the extents would be hidden"
        visible_to = staged.map_end(stop)
        assert not new or visible_to == stop, "the extents would be hidden"
        mapped = self._maps.overlapping(inode, start, visible_to) if start < visible_to else ()
        if new or any(mapped):
            with self._index.change():
                self._index.put(Table.PENDING, number_key(inode), request_value())
                self._flusher.record_truncation(staged)
                self._maps.replace(inode, start, visible_to, new)
                self._flusher.hide_map(inode, staged.map_visible_to)
            staged.truncation_recorded()
        staged.replaced(start, stop)
