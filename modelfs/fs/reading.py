"""Reading for requests: at once from the kernel's page cache if possible, on a thread if not.

A file that is read in order is read ahead: its next chunks are verified or decoded on threads
while the event loop answers from those before, without a change of threads for every request. One
thread verifies plain chunks as fast as memory allows. Decoding takes two, which take the next chunk
in turn; each lets go of Python's lock while it computes.
"""

import errno
import logging
import os
from collections.abc import Iterator
from typing import Final

import trio

from modelfs.errors import ModelfsError
from modelfs.fs.boundary import silent
from modelfs.fs.handles import Handle
from modelfs.store.content import ChunkRun, Contents, FileRun, HoleRun, Run
from modelfs.store.records import ChunkKind

log = logging.getLogger(__name__)

# The largest read the kernel sends; buffers of this size are kept for reuse, since new ones of
# 1 MiB would be mapped, zeroed and faulted in for every request.
REQUEST_MAX: Final = 1 << 20
SPARE_BUFFERS: Final = 8
# The kernel's read-ahead sends several requests at once, a little out of order.
NEAR: Final = 4 << 20
# How far ahead of a sequential reader chunks are made ready, and in what portions.
AHEAD_MAX: Final = 24 << 20
AHEAD_STEP: Final = 8 << 20
DECODERS: Final = 2


class Reader:
    """Reads file content for the event loop."""

    def __init__(
        self, contents: Contents, workers: trio.CapacityLimiter, nursery: trio.Nursery
    ) -> None:
        self._contents = contents
        self._workers = workers
        self._nursery = nursery
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
        total = sum(run.size for run in runs)
        self._read_ahead(handle, offset, offset + total)
        buffer = self._buffer(total)
        view = memoryview(buffer)[:total]
        if not self._read_now(runs, view):
            await trio.to_thread.run_sync(self._contents.fill, runs, view, limiter=self._workers)
        self._lend(buffer)
        return view

    def _read_ahead(self, handle: Handle, start: int, stop: int) -> None:
        if not abs(start - handle.expected) <= NEAR:
            handle.expected = handle.ready = stop
            return
        handle.expected = max(handle.expected, stop)
        handle.ready = max(handle.ready, stop)
        if handle.reading_ahead or handle.ready - stop > AHEAD_MAX - AHEAD_STEP:
            return
        try:
            runs = self._contents.plan_ahead(handle.inode, handle.ready, AHEAD_STEP)
        except (ModelfsError, OSError) as exc:
            log.debug("read ahead: %s", exc)
            return
        handle.ready += sum(run.size for run in runs)
        if chunks := [run for run in runs if isinstance(run, ChunkRun)]:
            handle.reading_ahead = True
            self._nursery.start_soon(self._make_ready, handle, chunks)

    @silent  # a bug would end the nursery, and with it the mount
    async def _make_ready(self, handle: Handle, runs: list[ChunkRun]) -> None:
        queue = iter(runs)  # shared: each chunk is taken by one thread
        threads = DECODERS if any(run.record.kind is not ChunkKind.PLAIN for run in runs) else 1
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(threads):
                    nursery.start_soon(self._load_on_thread, queue)
        finally:
            handle.reading_ahead = False

    @silent
    async def _load_on_thread(self, runs: Iterator[ChunkRun]) -> None:
        await trio.to_thread.run_sync(self._load, runs, limiter=self._workers)

    def _load(self, runs: Iterator[ChunkRun]) -> None:
        for run in runs:
            try:
                self._contents.prepare(run)
            except (ModelfsError, OSError) as exc:
                # Nobody has asked for it yet; whoever does gets the error.
                log.debug("read ahead: %s", exc)
                return

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
