"""Holes of divided files: bytes of a row that the disk does not have any more.

A window of a divided file that was dropped is a hole (see `whole_file`). If the index goes back to
an older commit, because the disk lost a write of it, the window has its row again. A staging file
of its own would be missing then; here the bytes read as zeros. So every reader of the row
compares its ranges with the file, which has exactly the bytes that were written.

Example. Window 0 of the divided file 5-w-1 became a hole after commit 9. A meta page is damaged,
and repair goes back to commit 8, whose row has the bytes 0 to 64 MiB of window 0: all are lost.
"""

import os

from modelfs.store.disk.directory import Directory
from modelfs.store.disk.sparse import data_ranges
from modelfs.store.files.window import WHOLE, is_whole, window_name
from modelfs.store.index.ranges import RangeSet
from modelfs.store.index.records import WindowRanges
from modelfs.store.index.tables import pair_of


def holes_of(folder: Directory, key: bytes, row: WindowRanges) -> RangeSet:
    """Return the ranges of a row that are holes of its divided file; none of any other file.

    Args:
        folder: of the staging files.
        key: of the row.
        row: of a window.

    Raises:
        OSError: the disk failed.
    """
    if not row.generation & WHOLE or is_whole(row.generation) or not row.ranges:
        return RangeSet()
    holes = row.ranges.copy()
    try:
        with folder.opened(window_name(*pair_of(key), row.generation), os.O_RDONLY) as fd:
            for low, high in data_ranges(fd, next(iter(row.ranges))[0]):
                if low >= row.ranges.stop:
                    break
                holes.remove(low, high)
    except FileNotFoundError:  # an error of the first read
        return RangeSet()
    return holes
