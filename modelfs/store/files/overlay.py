"""The overlay of a file's map by its staged ranges: the source of each of its bytes."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from modelfs.store.files.staged_file import StagedFile
from modelfs.store.files.window import Window
from modelfs.store.index.records import Extent
from modelfs.store.index.tables import InodeNumber

R = TypeVar("R")


def overlay(
    inode: InodeNumber,
    staged: StagedFile | None,
    start: int,
    stop: int,
    mapped: Callable[[InodeNumber, int, int], Iterable[tuple[Extent, R]]],
) -> Iterator[tuple[int, int, Window | tuple[Extent, R] | None]]:
    """Tile a range of a file with the sources of its bytes, in order.

    Example. A file of three chunks of 4096 bytes was cut to 8192 bytes and made 9000 long again;
    then 10 bytes were written at 4000. From 0 to 9000 lie::

        start  stop  source
        0      4000  extent of the first chunk, from its byte 0 on, and the chunk's record
        4000   4010  the window with the 10 bytes
        4010   4096  extent of the first chunk, from its byte 4010 on, and the chunk's record
        4096   8192  extent of the second chunk, and its record
        8192   9000  None

    Args:
        inode: of the file.
        staged: the content state over its map; None if the map is all there is.
        start: of the range, in bytes from the start of the file.
        stop: of the range.
        mapped: yields the extents of the map inside a range, clipped to it and in order, each with
            the record of its chunk.

    Yields:
        Start, stop and source of a run of bytes. The source is the window in which they are
        staged, or the extent and record of the chunk that they are in; None in a hole, of the map
        or where that is hidden.
    """
    ranges: list[tuple[Window | None, int, int]] = [(None, stop, stop)]
    visible = stop
    if staged is not None:
        ranges[:0] = staged.within(start, stop)
        visible = staged.map_end(stop)
    at = start
    for window, low, high in ranges:
        if at < (end := min(low, visible)):
            for located in mapped(inode, at, end):
                extent = located[0]
                if at < extent.start:
                    yield at, extent.start, None
                at = extent.start + extent.length
                yield extent.start, at, located
            if at < end:
                yield at, end, None
                at = end
        if at < low:
            yield at, low, None
        if window is not None:
            yield low, high, window
        at = high
