"""The data file of an LMDB environment: its length, and its blocks on the disk.

LMDB reads the data file through a mapping. A read past the end of the file raises SIGBUS, which
ends the process. A commit may allocate pages at the end of the file and then not write them,
because it no longer needed their content. So after each commit `DataFile.lengthen` makes the file
as long as the pages in use.

A commit needs new pages even when it only deletes rows, so the file has blocks on the disk ahead of
their use.

Example. 100 pages of 4 KiB are in use and the file ends after 98, since a crash came before
`lengthen`. Two missing pages are fewer than `LOOSE_PAGES`. So at the next open all pages in use are
checked, the file is made longer, and the index opens. If 70 pages were missing, or one of those in
use, opening would fail.
"""

import contextlib
import os
from typing import Final

from modelfs.store.disk.allocation import KEEP_SIZE, allocate
from modelfs.store.disk.directory import Directory

DATA_FILE: Final = "data.mdb"
# So many pages at the end of the file a commit may have left unwritten before a crash.
LOOSE_PAGES: Final = 64
# The file has `AHEAD` bytes of blocks that are not in use, so that deletes can be committed after
# other programs have filled the disk. Free pages inside the file count towards it, but
# `AHEAD_BEHIND` bytes always lie behind the last page in use: a reader, such as `modelfs inspect`
# beside a mount, blocks the reuse of its snapshot's pages and of all pages freed since.
AHEAD: Final = 4 << 20
AHEAD_BEHIND: Final = 2 << 20
AHEAD_STEP: Final = 256 << 10  # the blocks are extended by at least so many bytes


class DataFile:
    """The file that holds LMDB's pages."""

    def __init__(self, folder: Directory) -> None:
        self.path = folder.path / DATA_FILE  # for messages
        self._folder = folder
        self._blocks_end = 0  # offset up to which the file has blocks on the disk

    @property
    def size(self) -> int:
        return self._folder.status(DATA_FILE).st_size

    def extend(self, size: int, used: int) -> None:
        """Extend the file from `size` to `used` bytes. It never becomes shorter."""
        # Not truncate(2): a writer may have made the file longer than `used` meanwhile.
        with self._folder.opened(DATA_FILE, os.O_RDWR) as fd:
            os.posix_fallocate(fd, size, used - size)

    def lengthen(self, used: int, free: int) -> None:
        """Make the file as long as the bytes in use, and allocate blocks for the next commits.

        Args:
            used: bytes up to the end of the last page in use.
            free: bytes of unused pages before that. Ignored unless `needs_blocks(used)`.
        """
        if (size := self.size) < used:
            with self._folder.opened(DATA_FILE, os.O_RDWR) as fd:
                os.ftruncate(fd, used)
        if self.needs_blocks(used):
            behind = max(AHEAD - free, AHEAD_BEHIND + AHEAD_STEP)
            self._blocks_end = max(size, used) + behind
            self._allocate(self._blocks_end)

    def needs_blocks(self, used: int) -> bool:
        """Whether `lengthen` will allocate blocks, and so needs the number of free bytes."""
        return self._blocks_end - used < AHEAD_BEHIND

    def _allocate(self, size: int) -> None:
        """Allocate blocks up to `size` without making the file longer, if the disk has space."""
        # After an error, a later commit tries once more.
        with self._folder.opened(DATA_FILE, os.O_RDWR) as fd, contextlib.suppress(OSError):
            allocate(fd, size, KEEP_SIZE)
