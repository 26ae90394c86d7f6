"""The lock on packs: one job at a time appends to packs, and no pack is deleted while it is pinned.

Jobs get it by a step (`jobs.steps.Hold`). Ingest, gc, the optimizer and the defragmenter append. A
reader in another process, such as `fsck` beside a daemon, *pins* all packs. Pinned packs may still
grow, so ingest and the optimizer go on; gc and the defragmenter delete packs, so they wait.

Example. gc wants to rewrite pack 7 while `fsck` has the packs pinned. gc waits without the lock,
ingest takes the lock and appends to pack 9. `fsck` ends, and gc takes the lock.
"""

import contextlib
from collections.abc import AsyncIterator, Iterator

import trio

from modelfs.fs.changed import Changed


class PackLock:
    """The right to append to packs, and the right to delete them."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._pins = 0
        self._unpinned = Changed()
        self._until_pinned: set[trio.CancelScope] = set()

    @contextlib.asynccontextmanager
    async def append(self) -> AsyncIterator[None]:
        """Hold the right to append to packs."""
        async with self._lock:
            yield

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Hold the right to append to packs and to delete them; wait until none is pinned."""
        # The wait is outside of the lock, so that ingest goes on while packs are pinned.
        while True:
            async with self._lock:
                if not self._pins:
                    yield
                    return
            await self._unpinned.wait()

    @contextlib.asynccontextmanager
    async def unless_pinned(self) -> AsyncIterator[bool]:
        """Hold the same right, or none while packs are pinned; yields whether it is held."""
        async with self._lock:
            yield not self._pins

    @contextlib.contextmanager
    def until_pinned(self) -> Iterator[None]:
        """Cancel the block when packs are pinned: for work that must not wait for a reader.

        Packs are pinned only while no job holds a right, so the block is not in the middle of work.
        """
        with trio.CancelScope() as scope:
            if self._pins:
                scope.cancel()
            self._until_pinned.add(scope)
            try:
                yield
            finally:
                self._until_pinned.discard(scope)

    @contextlib.asynccontextmanager
    async def pinned(self) -> AsyncIterator[None]:
        """Keep all packs from being deleted, for a reader in another process."""
        async with self._lock:  # a collection that is under way ends first
            self._pins += 1
            for scope in self._until_pinned:
                scope.cancel()
        try:
            yield
        finally:
            self._pins -= 1
            self._unpinned.notify()
