"""Writing for requests: on the event loop while the kernel takes the bytes at once.

Copying a request's bytes into the page cache takes less time than handing them to another thread:
for 128 KiB, 52 us against 182 us on two cores. But when the disk is behind, the kernel makes a
writer wait for it, and on the event loop everybody would wait with it. So a write that took long
sends those that follow to threads for a while.
"""

import time
from typing import Final

import trio

from modelfs.store.files.writes import WritePart, Writes, write_part
from modelfs.store.index.tables import InodeNumber

# A write of 1 MiB that took longer than this was made to wait.
SLOW_SECONDS: Final = 0.005
# How long writes go to threads after that.
WARY_SECONDS: Final = 2.0


class Writer:
    """Writes file content for the event loop."""

    def __init__(self, writes: Writes, workers: trio.CapacityLimiter) -> None:
        self._writes = writes
        self._workers = workers
        self._wary_until = 0.0

    async def write(self, inode: InodeNumber, offset: int, data: bytes) -> int:
        """Write to a file, and return how many bytes were written.

        Raises:
            FileTooLarge: past the largest size.
            OSError: nothing was written.
        """
        parts = self._writes.begin(inode, offset, memoryview(data))
        written = 0
        try:
            for part in parts:
                await self._write(part)
                written += len(part.data)
        except OSError:
            if not written:
                raise
        finally:
            self._writes.end(inode, parts, written)
        return written

    async def _write(self, part: WritePart) -> None:
        start = time.monotonic()
        if start < self._wary_until:
            await trio.to_thread.run_sync(write_part, part, limiter=self._workers)
            return
        write_part(part)
        if (now := time.monotonic()) - start > SLOW_SECONDS:
            self._wary_until = now + WARY_SECONDS
