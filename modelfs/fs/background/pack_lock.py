"""Whose turn it is to append to packs or to delete them.

Ingest, collect and the optimizer append, which is for one at a time. A reader in another process
may *hold* the packs: ingest and the optimizer's encoding go on then, since what is there stays;
collect waits, and so does the optimizer's packing.
"""

import contextlib
from collections.abc import AsyncIterator

import trio


class PackLock:
    """The turn to append to packs."""

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._holds = 0
        self._released = trio.Event()

    @property
    def is_pinned(self) -> bool:
        """Whether somebody holds the packs, so that none may be deleted."""
        return self._holds > 0

    @contextlib.asynccontextmanager
    async def append(self) -> AsyncIterator[None]:
        """Wait for the turn, and have it inside."""
        async with self._lock:
            yield

    @contextlib.asynccontextmanager
    async def exclusive(self) -> AsyncIterator[None]:
        """Wait for a turn while nobody holds the packs."""
        # Not to be waited for with the lock: ingest goes on while somebody holds the packs.
        while True:
            async with self._lock:
                if not self._holds:
                    yield
                    return
            await self._released.wait()

    @contextlib.asynccontextmanager
    async def pinned(self) -> AsyncIterator[None]:
        """Keep all packs as they are, for a reader in another process."""
        async with self._lock:  # a collection that is under way ends first
            self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1
            self._released.set()
            self._released = trio.Event()
