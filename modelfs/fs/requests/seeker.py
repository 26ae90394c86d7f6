"""Searches for data and holes of files: lseek(2) with SEEK_DATA and SEEK_HOLE.

While a program has the file open for writing, it may have mapped it, and the kernel may have pages
of it that no request has brought yet. The kernel does not send them before such a search, so a hole
of the store may be data already. A program that copies the file would leave them out. So all of
such a file is data, and its end is the only hole.

Example. A file of 1 GiB has data in its first and last MiB. `cp` opens it, and finds the hole. Then
numpy maps it for writing, and another `cp` finds one range of data and copies 1 GiB.
"""

import os

import trio

from modelfs.errors import InvalidArgument, PastData
from modelfs.fs.handles import Handles
from modelfs.store.disk.calls import drive_async
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store


class Seeker:
    """Finds data and holes of files for the event loop."""

    def __init__(self, store: Store, handles: Handles) -> None:
        self._contents = store.contents
        self._holes = store.holes
        self._handles = handles

    async def seek(self, inode: InodeNumber, offset: int, whence: int) -> int:
        """Return the first offset with data, or in a hole, from an offset on.

        Args:
            inode: of the file.
            offset: where the search begins.
            whence: SEEK_DATA or SEEK_HOLE.

        Raises:
            PastData: there are no data from the offset on, or the file ends before it.
            CorruptIndex: the file's map is damaged, or extents are missing.
        """
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise InvalidArgument(f"whence {whence}")
        size = self._contents.node(inode).size
        if offset >= size:
            raise PastData(f"offset {offset} in a file of {size} bytes")
        if self._handles.is_open_for_writing(inode):
            return offset if whence == os.SEEK_DATA else size
        if not self._holes.are_known(inode):
            await trio.to_thread.run_sync(self._holes.check, inode)
        if whence == os.SEEK_HOLE:
            return await drive_async(self._holes.next_hole(inode, offset), _pause)
        if (found := self._holes.next_data(inode, offset)) is None:
            raise PastData(f"no data from offset {offset} on")
        return found


async def _pause(_: None) -> None:
    await trio.lowlevel.checkpoint()
