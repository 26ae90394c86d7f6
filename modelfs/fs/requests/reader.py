"""Reading for requests: from memory or the kernel's page cache if possible, on a thread if not.

What `readahead` makes ready is waited for. Only what nobody prepares takes a thread of its own: to
change threads for every request costs as much as the request.
"""

import errno
import os
from typing import Final

import trio

from modelfs.fs.handles import Handle
from modelfs.fs.requests.readahead import ReadAhead
from modelfs.store.chunks.cache import CAPACITY
from modelfs.store.files.content import ChunkRun, Contents, FileRun, HoleRun, ReadRun

# The largest read the kernel sends; buffers of this size are kept for reuse, since new ones of
# 1 MiB would be mapped, zeroed and faulted in for every request.
REQUEST_MAX: Final = 1 << 20
SPARE_BUFFERS: Final = 8


class Reader:
    """Reads file content for the event loop."""

    def __init__(
        self,
        contents: Contents,
        workers: trio.CapacityLimiter,
        nursery: trio.Nursery,
        memory: int = CAPACITY,
    ) -> None:
        """Begin, with a page cache of so many bytes."""
        self._contents = contents
        self._workers = workers
        self._ahead = ReadAhead(contents, nursery, max(2, os.cpu_count() or 1), memory)
        self._spare: list[bytearray] = []
        self._lent: bytearray | None = None
        self._can_try = True

    async def read(self, handle: Handle, offset: int, size: int) -> memoryview:
        """Return the bytes of a file, fewer than `size` at its end.

        The buffer is the caller's until the next checkpoint.

        Raises:
            CorruptChunk: a chunk of it is damaged.
            OSError: the backing disk failed.
        """
        runs = self._contents.plan(handle.inode, offset, size)
        self._ahead.follow(handle.ahead, handle.inode, offset, offset + _size(runs))
        if await self._ahead.wait(handle.ahead, runs):
            runs = self._contents.plan(handle.inode, offset, size)  # verified ones lie in files now
        total = _size(runs)
        buffer = self._buffer(total)
        view = memoryview(buffer)[:total]
        if not self._read_now(runs, view):
            await trio.to_thread.run_sync(self._contents.fill, runs, view, limiter=self._workers)
        self._ahead.leave_behind(handle.ahead, offset, runs)
        self._lend(buffer)
        return view

    def _read_now(self, runs: list[ReadRun], into: memoryview) -> bool:
        # Fills `into` if that takes no waiting for a disk and no decoding.
        if not all(self._contents.is_ready(run) for run in runs if isinstance(run, ChunkRun)):
            return False
        at = 0
        for run in runs:
            part = into[at : at + run.size]
            at += run.size
            match run:
                case HoleRun():
                    part[:] = bytes(len(part))
                case FileRun(file, offset, _):
                    if not self._try(file.fd, part, offset):
                        return False
                case ChunkRun():
                    if (content := self._contents.peek(run)) is None:
                        return False
                    part[:] = content
        return True

    def _try(self, fd: int, into: memoryview, offset: int) -> bool:
        if not self._can_try:
            return False
        try:
            return os.preadv(fd, [into], offset, os.RWF_NOWAIT) == len(into)
        except OSError as exc:
            if exc.errno == errno.EOPNOTSUPP:
                self._can_try = False  # not every file system can tell whether a read would wait
            return False  # if the disk failed, it is asked again, and says so

    def _buffer(self, size: int) -> bytearray:
        if size > REQUEST_MAX:
            return bytearray(size)
        return self._spare.pop() if self._spare else bytearray(REQUEST_MAX)

    def _lend(self, buffer: bytearray) -> None:
        # The reply is sent before anything else runs on the event loop, so the buffer that was
        # lent last is free again when the next one is.
        if self._lent is not None and len(self._spare) < SPARE_BUFFERS:
            self._spare.append(self._lent)
        self._lent = buffer if len(buffer) == REQUEST_MAX else None


def _size(runs: list[ReadRun]) -> int:
    return sum(run.size for run in runs)
