"""Writes of file content: on the event loop while the kernel takes the bytes at once.

To copy a request's bytes into the page cache takes less time than to hand them to another thread:
for 128 KiB, 52 us against 182 us on two cores. But when the disk is behind, the kernel makes a
writer wait for it, and on the event loop every other request would wait, too. So after a slow write
the writes that follow go to threads for a while.

Example. A write of 1 MiB takes 40 ms on the event loop, because the disk is behind. The writes of
the next two seconds go to threads; then the event loop tries again.
"""

import time
from typing import Final

import trio

from modelfs.store.files.writes import Writes, write_part
from modelfs.store.index.tables import InodeNumber

# A write of 1 MiB that took longer than this has waited for the disk.
SLOW_SECONDS: Final = 0.005
# How long writes go to threads after a slow one.
THREAD_SECONDS: Final = 2.0


class Writer:
    """Writes file content for the event loop."""

    def __init__(self, writes: Writes, workers: trio.CapacityLimiter) -> None:
        self._writes = writes
        self._workers = workers
        self._threads_until = 0.0  # monotonic seconds

    async def write(self, inode: InodeNumber, offset: int, data: bytes) -> int:
        """Write to a file, and return how many bytes were written.

        Raises:
            FileTooLarge: the write ends past the largest file size.
            OSError: nothing was written.
        """
        parts = self._writes.begin(inode, offset, memoryview(data))
        written = 0
        try:
            for part in parts:
                start = time.monotonic()
                if start < self._threads_until:
                    await trio.to_thread.run_sync(write_part, part, limiter=self._workers)
                else:
                    write_part(part)
                    stop = time.monotonic()
                    if stop - start > SLOW_SECONDS:
                        self._threads_until = stop + THREAD_SECONDS
                written += len(part.data)
        except OSError:
            if not written:
                raise
        finally:
            self._writes.end(inode, parts, written)
        return written
