"""Reading for requests: at once from the kernel's page cache if possible, on a thread if not."""

import errno
import os
from typing import Final

import trio

from modelfs.store.content import Contents, FileRun, HoleRun, Run
from modelfs.store.tables import InodeNumber

# The largest read the kernel sends; buffers of this size are kept for reuse, since new ones of
# 1 MiB would be mapped, zeroed and faulted in for every request.
REQUEST_MAX: Final = 1 << 20
SPARE_BUFFERS: Final = 8


class Reader:
    """Reads file content for the event loop."""

    def __init__(self, contents: Contents, workers: trio.CapacityLimiter) -> None:
        self._contents = contents
        self._workers = workers
        self._spare: list[bytearray] = []
        self._lent: bytearray | None = None
        self._can_try = True

    async def read(self, inode: InodeNumber, offset: int, size: int) -> memoryview:
        """Return the bytes of a file, fewer than `size` at its end.

        The buffer is the caller's until the next checkpoint.

        Raises:
            CorruptChunk: a chunk of it is damaged.
            OSError: the backing disk failed.
        """
        runs = self._contents.plan(inode, offset, size)
        total = sum(run.size for run in runs)
        buffer = self._buffer(total)
        view = memoryview(buffer)[:total]
        if not self._read_now(runs, view):
            await trio.to_thread.run_sync(self._contents.fill, runs, view, limiter=self._workers)
        self._lend(buffer)
        return view

    def _read_now(self, runs: list[Run], into: memoryview) -> bool:
        # Fills `into` if that takes no waiting for a disk and no decoding.
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
                case _:
                    return False
        return True

    def _try(self, fd: int, into: memoryview, offset: int) -> bool:
        if not self._can_try:
            return False
        try:
            return os.preadv(fd, [into], offset, os.RWF_NOWAIT) == len(into)
        except BlockingIOError:
            return False
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:
                raise
            self._can_try = False  # not every file system can tell whether a read would wait
            return False

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
