"""Durability: flushes and commits.

Theory of operation. A *flush* fsyncs a file's staged bytes where they are, and puts their ranges
into the index. A *commit* makes the index's changes durable. Requests that come while a commit is
under way share the next one.

Before a commit writes the index, it flushes the files behind the `barrier`.

Example. Two programs call fsync while a commit is under way. Both files are flushed at once, and
both programs wait: the commit under way may have been sealed before their changes. One more commit
has the changes of both, and then both go on.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from modelfs.errors import ModelfsError
from modelfs.fs.background.barrier import Barrier
from modelfs.jobs.steps import CHANGES_MAX
from modelfs.store.disk.calls import Calls, drive_async
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

# How long written data may wait for its flush. The promise to users is 30 seconds.
FLUSH_SECONDS: Final = 20.0
# The promise to users for names and metadata is 5 seconds: see `gate`.
COMMIT_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True)
class FailedCommit:
    """A commit that failed."""

    error: ModelfsError | OSError
    at: float  # monotonic seconds


class Durability:
    """Flushes and commits a mounted store."""

    def __init__(self, store: Store, workers: trio.CapacityLimiter) -> None:
        self._store = store
        self._workers = workers
        self.barrier = Barrier(store.staging)
        self.failure: FailedCommit | None = None  # the last commit, if it failed
        self._committing = trio.Lock()
        self._seals = 0  # commits that were sealed

    # -- flushing

    async def flush(self, inode: InodeNumber) -> None:
        """Put a file's staged content where the next commit makes it durable.

        Raises:
            LostBytes: the disk has lost bytes that were written.
            OSError: the backing disk failed; any part of the content may be lost in a crash.
        """
        await self._run(self._store.flusher.flush(inode))

    async def make_durable(self, inode: InodeNumber) -> None:
        """Flush a file and commit, as fsync(2) does. Raises as `flush` and `commit`."""
        await self.flush(inode)
        await self.commit()

    async def flush_all(self) -> None:
        """Flush every staged file.

        Raises:
            LostBytes, OSError: of some file; all others are flushed.
        """
        await self._run(self._store.flusher.flush_all())

    async def flush_old(self) -> None:
        """Flush the files whose oldest change has waited long enough."""
        latest = time.monotonic() - FLUSH_SECONDS
        self._store.staging.follow_writers()
        staged_files = [staged for staged in self._store.staging if staged.dirty]
        old = [staged.inode for staged in staged_files if staged.dirty_since < latest]
        await self.flush_some(old)

    async def flush_some(self, inodes: Iterable[InodeNumber]) -> None:
        """Flush several files.

        Raises:
            LostBytes, OSError: of some file; all others are flushed.
        """
        await self._run(self._store.flusher.flush_some(inodes))

    async def _run(self, calls: Calls[None]) -> None:
        await drive_async(calls, partial(trio.to_thread.run_sync, limiter=self._workers))

    # -- committing

    async def commit_old(self) -> None:
        """Commit if a change has waited long enough. Raises as `commit`."""
        if self._store.index.uncommitted_seconds > COMMIT_SECONDS:
            await self.commit()

    async def commit(self) -> None:
        """Make every change made so far durable.

        Raises:
            StoreFull: there is no room for the index; nothing is lost.
            OSError: the backing disk failed.
        """
        wanted = self._seals + 1  # the next commit to be sealed has all changes made so far
        async with self._committing:
            if self._seals >= wanted or not self._store.index.dirty:
                return
            try:
                await self.barrier.clear(self.flush_some)
                self._seals += 1
                try:
                    await self._run(self._store.commit_calls())
                except BaseException as exc:
                    # The commit may be written, and only its deletes be cancelled. Then the next
                    # commit is one too many, which does no harm.
                    self._seals -= 1
                    if isinstance(exc, ModelfsError | OSError):
                        self.failure = FailedCommit(exc, time.monotonic())
                    raise
                self.failure = None
            finally:
                self.barrier.lift()

    async def pause(self) -> None:
        """Let other tasks run between two slices of a job; commit if many changes wait.

        Raises:
            StoreFull, OSError: as `commit` does.
        """
        if self._store.index.changes > CHANGES_MAX:
            await self.commit()
        else:
            await trio.lowlevel.checkpoint()
