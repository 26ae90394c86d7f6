"""The lock on packs: one appends to them at a time, and none is deleted while it is pinned.

Ingest, gc, the optimizer and the defragmenter append. A reader in another process, such as `fsck`
beside a daemon, may *pin* the packs: ingest and the optimizer go on meanwhile, since what is there
stays; gc and the defragmenter, which delete packs, wait.
"""

import contextlib
from collections.abc import AsyncIterator

import trio

from modelfs.fs.changed import Changed


class PackLock:
    """Who may append to packs, and who may delete them."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._pins = 0
        self._unpinned = Changed()

    @property
    def is_pinned(self) -> bool:
        """Whether packs are pinned, so that none may be deleted."""
        return self._pins > 0

    @contextlib.asynccontextmanager
    async def append(self) -> AsyncIterator[None]:
        """Hold the right to append to packs."""
        async with self._lock:
            yield

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the right to append to packs and to delete them: wait until none is pinned."""
        # Not waited for with the lock: ingest goes on while packs are pinned.
        while True:
            async with self._lock:
                if not self._pins:
                    yield
                    return
            await self._unpinned.wait()

    @contextlib.asynccontextmanager
    async def pinned(self) -> AsyncIterator[None]:
        """Keep all packs as they are, for a reader in another process."""
        async with self._lock:  # a collection that is under way ends first
            self._pins += 1
        try:
            yield
        finally:
            self._pins -= 1
            self._unpinned.notify()
