"""Hot copies: files that are read again are kept as plain files, which the kernel reads itself.

Theory of operation. With passthrough the kernel reads a file of the backing disk for programs, as
fast as that disk. So a file that was just written stays there after its ingest, as a *copy* of its
chunks (see `store.files.copies`). And a stored file that a program has read as a whole, and that is
opened again within `HEAT_SECONDS`, is *warmed*: its bytes are written to such a copy, in the
background, and synced. The opens after that get it, once all those by way of the daemon are closed.

Copies take room that is free: all together `size_max`, which follows the room of the disk every
second. Nothing of them is needed after a crash, and nothing waits for them to go.

A file that changes while it is warmed is not the one that was read: its record has another time
then, and the copy is dropped.

Example. A disk has 400 GB free, so 100 GB may be hot. A server loads a model of 16 GB, from chunks,
and is started again a minute later: this second open makes the model due. 20 s later it has a copy.
The third start reads it like a file of ext4.
"""

import errno
import logging
import stat
import time
from typing import Final

import trio

from modelfs.errors import InvalidArgument, ModelfsError
from modelfs.fs.background.context import Context
from modelfs.fs.handles import Handle
from modelfs.store.files.copies import SIZE_MIN
from modelfs.store.files.read_runs import HoleRun
from modelfs.store.files.whole_file import WholeFile
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import InodeNumber

log = logging.getLogger(__name__)

# So soon after it was read as a whole, the next open of a file makes it hot.
HEAT_SECONDS: Final = 600.0
# This part of its bytes has to be read for that: a loader leaves out the header, or a few tensors.
WHOLE_PART: Final = 1 / 2
# Files whose last reads are remembered, and files that are due.
REMEMBERED_MAX: Final = 1000
# Without `--hot-size`, copies get this part of the room; with it, at most `ROOM_PART`.
DEFAULT_PART: Final = 1 / 4
ROOM_PART: Final = 1 / 2
# A copy that was made or opened so recently is not dropped for another one.
IDLE_SECONDS: Final = 60.0
# Bytes that are copied in one step.
STEP: Final = 8 << 20


class HotCopies:
    """Keeps and makes the copies of a mounted store."""

    def __init__(self, context: Context) -> None:
        """Keep no copies, until `begin`."""
        self._store = context.store
        self._handles = context.handles
        self._copies = context.store.staging.wholes.copies
        self._size: int | None = 0
        self._read_at: dict[InodeNumber, float] = {}  # monotonic seconds; the oldest first
        self._due: dict[InodeNumber, None] = {}
        self._warming = trio.Lock()

    def begin(self, size: int | None) -> None:
        """Keep copies from now on, as the kernel can read them.

        Args:
            size: the most bytes of all copies; None: a part of the room.
        """
        self._size = size
        self._copies.size_max = self._room()

    # -- what programs read

    def opened(self, inode: InodeNumber) -> None:
        """Note that a program opens a file for reading, by way of the daemon."""
        read_at = self._read_at.get(inode)
        is_hot = read_at is not None and time.monotonic() - read_at < HEAT_SECONDS
        if is_hot and len(self._due) < REMEMBERED_MAX:
            self._due[inode] = None

    def closed(self, handle: Handle) -> None:
        """Note that a program has closed a file that it read by way of the daemon."""
        if self._size == 0 or handle.read_bytes < SIZE_MIN * WHOLE_PART:
            return
        node = self._store.inodes.find(handle.inode)
        if node is not None and handle.read_bytes >= node.size * WHOLE_PART:
            self._read_at.pop(handle.inode, None)
            self._read_at[handle.inode] = time.monotonic()
            if len(self._read_at) > REMEMBERED_MAX:
                del self._read_at[next(iter(self._read_at))]

    # -- copies

    async def keep(self) -> None:
        """Set the size of all copies by the room of the disk, and drop those beyond it."""
        self._copies.size_max = self._room()
        await self._shrink(self._copies.size_max)
        for inode, whole in self._copies.unproven():
            if not await trio.to_thread.run_sync(whole.prove):
                self._drop_unproven(inode, whole)

    def _drop_unproven(self, inode: InodeNumber, whole: WholeFile) -> None:
        """Drop a copy that the disk may lack, unless it is in use, or another one by now."""
        if self._copies.find(inode) is whole and self._copies.drop(inode):
            log.warning("the disk failed to write the copy of file %d: it is not hot", inode)

    async def _shrink(self, size: int, idle_seconds: float = 0) -> None:
        self._copies.shrink(size, idle_seconds)
        await trio.to_thread.run_sync(self._store.staging.wholes.empty_trash)

    def _room(self) -> int:
        if self._size == 0:
            return 0
        space = self._store.space
        room = max(0, self._copies.bytes + space.writable_bytes() - space.reserve_bytes)
        if self._size is None:
            return int(room * DEFAULT_PART)
        return min(self._size, int(room * ROOM_PART))

    async def warm_due(self) -> None:
        """Make copies of the files that are due."""
        while self._due:
            inode = next(iter(self._due))
            del self._due[inode]
            try:
                await self.warm(inode)
            except (ModelfsError, OSError) as exc:
                log.warning("file %d does not become hot: %s", inode, exc)

    async def warm_now(self, inode: InodeNumber) -> bool:
        """Make a copy of a stored file, as a user asks for it; return whether it has one now.

        Raises:
            InvalidArgument: this mount keeps no copies.
            CorruptIndex, CorruptChunk, OSError: as `warm`.
        """
        if self._size == 0:
            raise InvalidArgument(
                "this mount keeps no copies for the kernel; it needs --passthrough, Linux 6.9 or "
                "later, and no --hot-size 0"
            )
        await self.keep()
        return await self.warm(inode)

    async def warm(self, inode: InodeNumber) -> bool:
        """Make a copy of a stored file; return whether it has one now.

        It gets none if it is small, too large, or not in chunks, or if it changes meanwhile.

        Raises:
            CorruptIndex, CorruptChunk: the file is damaged.
            OSError: the disk failed, or is full.
        """
        async with self._warming:  # one at a time, so that all together have the room
            return await self._warm(inode)

    async def _warm(self, inode: InodeNumber) -> bool:
        if self._copies.find(inode) is not None:
            return True
        node = self._store.inodes.find(inode)
        if node is None or not self._is_suited(node):
            return False
        size = self._store.contents.allocated(node)
        await self._shrink(self._copies.size_max - size, IDLE_SECONDS)
        if self._copies.bytes + size > self._copies.size_max:
            return False
        whole = self._store.staging.new_copy(inode)
        try:
            await self._fill(whole, node)
            is_same = self._store.inodes.find(inode) == node and self._is_suited(node)
            if not whole.is_proven:
                raise OSError(errno.EIO, "the disk failed to write its copy")
            if not is_same or whole.disk_bytes() < SIZE_MIN:
                return False
            self._copies.add(inode, whole)
            return True
        finally:
            if self._copies.find(inode) is not whole:
                self._store.staging.wholes.discard(whole)

    def _is_suited(self, node: Inode) -> bool:
        """Whether a file may have a copy: a regular one in chunks, which fits, without writers."""
        return (
            stat.S_ISREG(node.mode)
            and self._copies.fits(self._store.contents.allocated(node))
            and self._store.staging.peek(node.inode) is None
            and not self._handles.is_open_for_writing(node.inode)
        )

    async def _fill(self, whole: WholeFile, node: Inode) -> None:
        """Write the bytes of a file to its copy, and sync it."""
        contents = self._store.contents
        for start in range(0, node.size, STEP):
            runs = contents.plan(node.inode, start, min(STEP, node.size - start))
            if all(isinstance(run, HoleRun) for run in runs):
                await trio.lowlevel.checkpoint()
                continue
            data = await trio.to_thread.run_sync(contents.gather, runs)
            await trio.to_thread.run_sync(whole.put, start, data)
        await trio.to_thread.run_sync(whole.put, node.size, b"")
        whole.set_mtime(node.mtime_ns)
        await trio.to_thread.run_sync(whole.prove)
