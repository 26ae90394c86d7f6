"""Copies inside the mount: copy_file_range(2), by which `cp` copies.

Stored bytes are cloned: see `store.files.clones`. Staged bytes are written to the target as by a
program. A copy may be of any length, and the kernel cannot interrupt it, so a request copies for
half a second at most; the program asks for the rest.

Example. `cp` copies a stored file of 1 GiB, whose last 3 MiB a program has just written. The
request clones 1,021 MiB in some 25 ms. Then it reads the staged MiBs, one after the other, and
writes them. Had the disk been full at the second one, the result would be 1,022 MiB, and the next
request would get ENOSPC.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio
from pyfuse3 import FileHandleT, FUSEError

from modelfs.errors import FileTooLarge, InvalidArgument, ModelfsError, NotSupported
from modelfs.fs.background.scheduler import Scheduler
from modelfs.fs.handles import Handles
from modelfs.fs.requests.changes import Changes
from modelfs.fs.requests.reader import replanned
from modelfs.store.disk.calls import drive_async
from modelfs.store.index.records import SIZE_MAX
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

# How long a request goes on, after its first step.
COPY_SECONDS: Final = 0.5
# Bytes reserved in the index for the extents of a slice.
SLICE_ROOM: Final = 16 << 10
# Staged bytes that are copied in one step.
STAGED_STEP: Final = 1 << 20

Place = tuple[FileHandleT, int]  # an open file, and an offset
Write = Callable[[FileHandleT, int, bytes], Awaitable[int]]


@dataclass(slots=True)
class _Rest:
    """The rest of a copy."""

    source: InodeNumber
    start: int
    stop: int
    target: InodeNumber
    handle: FileHandleT  # of the target
    at: int
    pid: int
    copied: int = 0

    def advance(self, size: int) -> None:
        self.start += size
        self.at += size
        self.copied += size


class Copier:
    """Copies ranges of files for the event loop."""

    def __init__(
        self,
        store: Store,
        handles: Handles,
        background: Scheduler,
        changes: Changes,
        write: Write,
    ) -> None:
        """Make a copier; `write` is the handler of writes."""
        self._store = store
        self._handles = handles
        self._durability = background.durability
        self._changes = changes
        self._write = write

    async def copy(self, source: Place, target: Place, size: int, pid: int) -> int:
        """Copy a range of an open file to another one, or to another place of the same.

        Args:
            source: where the range begins.
            target: where its copy begins.
            size: of the range, in bytes.
            pid: of the program, as for `Shortage.reserve`.

        Returns:
            The number of bytes that were copied; 0 only at the end of the source.

        Raises:
            InvalidArgument: the two ranges overlap.
            FileTooLarge: the target would be larger than the largest file size.
            NotSupported: the kernel itself reads or writes one of the files, and so copies it; or
                as `_clone`.
            CorruptIndex: the records of a file are damaged, or extents of the source are missing.
            LostBytes: the disk has lost staged bytes of the source.
            FUSEError: as for a write of staged bytes.
            StoreFull, OSError, Interrupted: as for a change of rows.
        """
        rest = self._begun(source, target, size, pid)
        if not self._store.holes.are_known(rest.source):
            await trio.to_thread.run_sync(self._store.holes.check, rest.source)
        # The kernel leaves this to the file system, as for writes.
        self._store.attributes.drop_privileges(rest.target)
        until = trio.current_time() + COPY_SECONDS
        while rest.start < rest.stop:
            try:
                if rest.copied:
                    await self._pause()
                step = await self._clone(rest, until) or await self._copy_staged(rest)
            except (ModelfsError, OSError, FUSEError):
                if not rest.copied:
                    raise
                break
            rest.advance(step)
            if not step or trio.current_time() > until:
                break
        return rest.copied

    def _begun(self, source: Place, target: Place, size: int, pid: int) -> _Rest:
        (handle, start), (other_handle, at) = source, target
        inode, other = self._handles[handle].inode, self._handles[other_handle].inode
        # First, as the kernel does it: only bytes that exist overlap.
        size = max(0, min(size, self._store.contents.node(inode).size - start))
        if inode == other and start < at + size and at < start + size:
            raise InvalidArgument("the two ranges overlap")
        if at + size > SIZE_MAX:
            raise FileTooLarge(f"a file of {at + size} bytes")
        if self._store.contents.is_whole(inode) or self._store.contents.is_whole(other):
            raise NotSupported("the kernel copies files itself that are passed through")
        return _Rest(inode, start, start + size, other, other_handle, at, pid)

    async def _clone(self, rest: _Rest, until: float) -> int:
        """Clone a slice, and return its bytes; 0 if the first one is staged, or at the end.

        Raises:
            NotSupported: the extents behind an earlier truncation cannot be removed in time. The
                kernel copies the bytes itself then.
        """

        async def pause(_: None) -> None:
            if trio.current_time() > until:
                raise NotSupported("a truncation of the file is not done yet")
            await self._pause()

        cloning = self._store.clones.clone(rest.source, rest.start, rest.stop, rest.target, rest.at)
        async with self._changes.of_rows(SLICE_ROOM, rest.pid):
            return await drive_async(cloning, pause)

    async def _pause(self) -> None:
        await self._durability.pause()

    async def _copy_staged(self, rest: _Rest) -> int:
        """Copy staged bytes, and return their number; 0 at the end of the source."""
        start, stop = self._store.clones.first_staged(rest.source, rest.start, rest.stop)
        size = stop - start if start == rest.start else STAGED_STEP
        contents = self._store.contents
        size = min(size, STAGED_STEP, rest.stop - rest.start)

        async def read() -> bytes:
            runs = contents.plan(rest.source, rest.start, size)
            return await trio.to_thread.run_sync(contents.gather, runs)

        data = await replanned(read)
        return await self._write(rest.handle, rest.at, data) if data else 0
