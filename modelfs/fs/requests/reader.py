"""Reads of file content: from memory or the kernel's page cache if possible, on a thread if not.

A read waits for chunks that `readahead` makes ready. Only content that read-ahead does not prepare
takes a thread of its own: to change threads for every request costs as much as the request.

Example. A read of 1 MiB covers a hole, a staged part and a chunk. The hole is filled with zeros,
the staged part is read from the page cache, the chunk's bytes are copied from the cache of decoded
chunks. If the page cache lacks the staged part, a thread fills the whole buffer again.
"""

import errno
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, TypeVar

import trio

from modelfs.errors import BytesMoved
from modelfs.fs.handles import Handle
from modelfs.fs.requests.readahead import ReadAhead
from modelfs.store.chunks.cache import CAPACITY
from modelfs.store.files.content import Contents
from modelfs.store.files.read_runs import ChunkRun, FileRun, HoleRun, ReadRun, parts

# The largest read that the kernel sends.
T = TypeVar("T")

REQUEST_MAX: Final = 1 << 20
SPARE_BUFFERS: Final = 8


async def replanned(read: Callable[[], Awaitable[T]]) -> T:
    """Plan a read and do it, again and again while its bytes are put into chunks meanwhile."""
    while True:
        with suppress(BytesMoved):
            return await read()


class Reader:
    """Reads file content for the event loop."""

    def __init__(
        self,
        contents: Contents,
        workers: trio.CapacityLimiter,
        nursery: trio.Nursery,
        memory: int = CAPACITY,
    ) -> None:
        """Create a reader; `memory` is the capacity of the cache of decoded chunks, in bytes."""
        self._contents = contents
        self._workers = workers
        self._ahead = ReadAhead(contents, nursery, max(2, os.cpu_count() or 1), memory)
        self._buffers = _Buffers()
        self._has_nowait = True  # until the backing file system refuses RWF_NOWAIT

    async def read(self, handle: Handle, offset: int, size: int) -> memoryview:
        """Return the bytes of a file, fewer than `size` at its end.

        The caller may use the buffer until its next checkpoint.

        Raises:
            CorruptIndex: the file's map is damaged, or extents are missing.
            CorruptChunk: one of the chunks is damaged.
            LostBytes: the disk has lost staged bytes.
            OSError: the backing disk failed.
        """
        return await replanned(lambda: self._read(handle, offset, size))

    async def _read(self, handle: Handle, offset: int, size: int) -> memoryview:
        """Plan a read and do it. Raises as `read`, and BytesMoved: it has to be planned again."""
        runs = self._contents.plan(handle.inode, offset, size)
        handle.read_bytes += _size(runs)
        self._ahead.follow(handle.ahead, handle.inode, offset, offset + _size(runs))
        if await self._ahead.wait(handle.ahead, runs):
            # Planned again: gc may have moved chunks, and cut or deleted their pack, during the
            # wait. Plain chunks that read-ahead has verified become runs of their pack.
            runs = self._contents.plan(handle.inode, offset, size)
        total = _size(runs)
        buffer = self._buffers.get(total)
        view = memoryview(buffer)[:total]
        if not self._read_at_once(runs, view):
            await trio.to_thread.run_sync(self._contents.fill, runs, view, limiter=self._workers)
        self._ahead.leave_behind(handle.ahead, offset, runs)
        self._buffers.lend(buffer)
        return view

    def _read_at_once(self, runs: list[ReadRun], into: memoryview) -> bool:
        """Fill a buffer if no run has to wait for a disk or be decoded; return whether it did."""
        if not all(self._contents.is_ready(run) for run in runs if not isinstance(run, FileRun)):
            return False
        for run, part in parts(runs, into):
            match run:
                case HoleRun():
                    part[:] = bytes(len(part))
                case FileRun(file, offset):
                    if run.check_waits or not self._read_page_cache(file.fd, part, offset):
                        return False
                    run.check()
                case ChunkRun():
                    if (content := self._contents.peek(run)) is None:
                        return False
                    part[:] = content
        return True

    def _read_page_cache(self, fd: int, into: memoryview, offset: int) -> bool:
        """Fill a buffer from the kernel's page cache; return False if that has not all bytes."""
        if not self._has_nowait:
            return False
        try:
            return os.preadv(fd, [into], offset, os.RWF_NOWAIT) == len(into)
        except OSError as exc:
            if exc.errno == errno.EOPNOTSUPP:
                self._has_nowait = False
            return False  # after any other error the read on a thread fails, too, and reports it


class _Buffers:
    """Buffers of `REQUEST_MAX` bytes for reuse.

    A new buffer of 1 MiB would be mapped, zeroed and faulted in for every request.
    """

    def __init__(self) -> None:
        self._spare: list[bytearray] = []
        self._lent: bytearray | None = None

    def get(self, size: int) -> bytearray:
        """Return a buffer of at least so many bytes, with any content."""
        if size > REQUEST_MAX:
            return bytearray(size)
        return self._spare.pop() if self._spare else bytearray(REQUEST_MAX)

    def lend(self, buffer: bytearray) -> None:
        """Let a reply be sent from a buffer, and reuse the buffer afterwards.

        pyfuse3 sends the reply before any other task runs. So at the next call the buffer of the
        call before is free.
        """
        if self._lent is not None and len(self._spare) < SPARE_BUFFERS:
            self._spare.append(self._lent)
        self._lent = buffer if len(buffer) == REQUEST_MAX else None


def _size(runs: list[ReadRun]) -> int:
    return sum(run.size for run in runs)
