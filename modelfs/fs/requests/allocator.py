"""Allocations and holes: fallocate(2).

Room is not kept for a file: bytes need it when they are written. So an allocation checks that there
is as much room now, and makes the file longer if it asks for that; the new bytes are a hole. A
range that is to be zeros becomes a hole, too.

Example. `fallocate -l 1G f` on an empty file finds 2 GiB of room, and the file has a hole of 1 GiB.
On a disk with less room it gets ENOSPC. `fallocate -p -o 1M -l 2M f` punches a hole into the first
chunks of a stored file, and no byte is written.
"""

from typing import Final

from modelfs.errors import FileTooLarge, NotSupported
from modelfs.fs.background.scheduler import Scheduler
from modelfs.fs.requests.changes import Changes
from modelfs.store.disk.allocation import KEEP_SIZE, PUNCH_HOLE
from modelfs.store.index.records import SIZE_MAX
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

ZERO_RANGE: Final = 16  # of fallocate(2), as in include/uapi/linux/falloc.h


class Allocator:
    """Allocates ranges of files, and makes holes, for the event loop."""

    def __init__(self, store: Store, background: Scheduler, changes: Changes) -> None:
        self._store = store
        self._shortage = background.shortage
        self._durability = background.durability
        self._changes = changes

    async def allocate(
        self, inode: InodeNumber, start: int, stop: int, mode: int, pid: int
    ) -> None:
        """Allocate a range of a file, or make it a hole.

        Args:
            inode: of the file.
            start: of the range.
            stop: of the range.
            mode: flags of fallocate(2).
            pid: of the program, as for `Shortage.reserve`.

        Raises:
            NotSupported: a flag is unknown, such as that of collapsing a range; or as
                `MapEdits.punch`.
            FileTooLarge: the range ends behind the largest file size.
            StoreFull: there is no room for the range.
            OSError: commits fail.
            Interrupted: a signal ends the program while it waits for room.
        """
        if mode & ~(KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE):
            raise NotSupported(f"fallocate with mode {mode:#x}")
        if stop > SIZE_MAX:
            raise FileTooLarge(f"a file of {stop} bytes")
        await self._changes.before_change(frees=bool(mode & PUNCH_HOLE))
        if not mode & PUNCH_HOLE:
            await self._check_room(inode, start, stop, pid)
        # The kernel leaves this to the file system, as for writes.
        self._store.attributes.drop_privileges(inode)
        if mode & (PUNCH_HOLE | ZERO_RANGE):
            for _ in self._store.edits.punch(inode, start, stop):
                await self._durability.pause()
        if not mode & KEEP_SIZE and stop > self._store.contents.node(inode).size:
            self._store.writes.truncate(inode, stop)

    async def _check_room(self, inode: InodeNumber, start: int, stop: int, pid: int) -> None:
        """Check that there is room for those bytes of a range that are in holes.

        Not more than the holes of the whole file, of which the number is known without a search.
        """
        node = self._store.contents.node(inode)
        holes = max(node.size, stop) - self._store.contents.allocated(node)
        if (size := min(stop - start, holes)) > 0:
            await self._shortage.reserve(size, pid)
            self._store.space.arrive(size, 0)
