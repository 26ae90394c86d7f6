"""Durability: flushes and commits, and the requests that wait for them.

Theory of operation. A *flush* fsyncs a file's staged bytes where they are, and puts their ranges
into the index. A *commit* makes the index's changes durable. Requests that come while a commit is
under way share the next one.

A rename over an existing file puts the renamed file behind a *barrier*: no commit may contain the
new name before the content under it is durable. A commit first flushes the files behind the
barrier. If renames add more meanwhile, it flushes again, and holds up further renames until it is
done.

A change may wait for a commit for 5 s, and all of them together may take 64 MiB. A request that
makes one first passes the gate, `before_change`. If the commits cannot keep up it waits, and if
they fail it gets their error: an error that only fsync returned would leave all other programs
without a word. It waits, too, while too many staging files have bytes that no flush has made
durable, because each keeps a descriptor.

Example. A program writes a.tmp and renames it to a. The next commit sees a.tmp's inode behind the
barrier, flushes it, and then writes the index with the new name. After a crash, a has either its
old content or the whole new content.
"""

import logging
import time
from functools import partial
from typing import Final

import trio

from modelfs.errors import LostBytes, ModelfsError, StoreFull
from modelfs.jobs.steps import CHANGES_MAX
from modelfs.store.disk.calls import Calls, drive_async
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

log = logging.getLogger(__name__)

# How long written data may wait for its flush. The promise to users is 30 seconds.
FLUSH_SECONDS: Final = 20.0
# The promise to users for names and metadata is 5 seconds: a commit begins after `COMMIT_SECONDS`,
# and a request that makes a change waits if the oldest change is older than `AGE_MAX`.
COMMIT_SECONDS: Final = 4.0
AGE_MAX: Final = 5.0
# The most memory of changes that wait for a commit.
BYTES_MAX: Final = 64 << 20
# After a commit that failed, requests get its error for so long before one tries again.
FAILED_SECONDS: Final = 1.0


class Durability:
    """Flushes and commits a mounted store."""

    def __init__(self, store: Store, workers: trio.CapacityLimiter) -> None:
        self._store = store
        self._workers = workers
        self._committing = trio.Lock()
        self._relieving = trio.Lock()
        self._seals = 0  # commits that were sealed
        self._failure: ModelfsError | OSError | None = None  # of the last commit
        self._failed_at = 0.0  # monotonic seconds
        self._barrier: set[InodeNumber] = set()
        self._renames_may_pass = trio.Event()
        self._renames_may_pass.set()

    # -- the gate

    async def before_change(self, *, frees: bool = False) -> None:
        """Wait while too many changes wait for a commit or a flush, or one waits for too long.

        Args:
            frees: the change frees room, so it is made although there is no room for a commit.

        Raises:
            StoreFull, OSError: the changes cannot be committed.
        """
        index = self._store.index
        is_old = index.uncommitted_seconds > AGE_MAX
        while is_old or index.uncommitted_bytes > BYTES_MAX:
            try:
                await self._commit_or_fail()
            except StoreFull:
                if frees and index.uncommitted_bytes <= BYTES_MAX:
                    return
                raise
            # Once: background jobs make changes all the time, which are older than 5 s after a
            # slow commit.
            is_old = False
        if self._store.staging.crowded():
            await self._flush_crowded()

    async def _flush_crowded(self) -> None:
        """Flush the files whose staging files keep too many descriptors."""
        async with self._relieving:
            try:
                await self._run(self._store.flusher.flush_some(self._store.staging.crowded()))
            except (LostBytes, OSError) as exc:  # of other files, whose fsync returns it, too
                log.error("a file could not be flushed: %s", exc)

    async def _commit_or_fail(self) -> None:
        """Commit; if the last commit failed just now, raise its error again."""
        failure = self._failure
        if failure is not None and time.monotonic() < self._failed_at + FAILED_SECONDS:
            raise type(failure)(*failure.args)
        await self.commit()

    async def commit_old(self) -> None:
        """Commit if a change has waited long enough. Raises as `commit`."""
        if self._store.index.uncommitted_seconds > COMMIT_SECONDS:
            await self.commit()

    # -- renames

    async def before_rename(self) -> None:
        """Wait while a commit holds up renames."""
        while not self._renames_may_pass.is_set():
            await self._renames_may_pass.wait()

    def replaced(self, inode: InodeNumber) -> None:
        """Note that a file was renamed over another."""
        staged = self._store.staging.find(inode)
        if staged is not None and staged.dirty:
            self._barrier.add(inode)

    # -- flushing

    async def flush(self, inode: InodeNumber) -> None:
        """Put a file's staged content where the next commit makes it durable.

        Raises:
            LostBytes: the disk has lost bytes that were written.
            OSError: the backing disk failed; any part of the content may be lost in a crash.
        """
        await self._run(self._store.flusher.flush(inode))

    async def flush_all(self) -> None:
        """Flush every staged file.

        Raises:
            LostBytes, OSError: of some file; all others are flushed.
        """
        await self._run(self._store.flusher.flush_all())

    async def flush_old(self) -> None:
        """Flush the files whose oldest change has waited long enough."""
        latest = time.monotonic() - FLUSH_SECONDS
        staged_files = [staged for staged in self._store.staging if staged.dirty]
        old = [staged.inode for staged in staged_files if staged.dirty_since < latest]
        await self._run(self._store.flusher.flush_some(old))

    async def _run(self, calls: Calls[None]) -> None:
        await drive_async(calls, partial(trio.to_thread.run_sync, limiter=self._workers))

    # -- committing

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
                await self._flush_barrier()
                self._seals += 1
                try:
                    await self._run(self._store.commit_calls())
                except BaseException as exc:
                    # The commit may be written, and only its deletes be cancelled. Then the next
                    # commit is one too many, which does no harm.
                    self._seals -= 1
                    if isinstance(exc, ModelfsError | OSError):
                        self._failure, self._failed_at = exc, time.monotonic()
                    raise
                self._failure = None
            finally:
                self._renames_may_pass.set()

    async def pause(self) -> None:
        """Let other tasks run between two slices of a job; commit if many changes wait.

        Raises:
            StoreFull, OSError: as `commit` does.
        """
        if self._store.index.changes > CHANGES_MAX:
            await self.commit()
        else:
            await trio.lowlevel.checkpoint()

    async def _flush_barrier(self) -> None:
        """Flush the files behind the barrier until there are none; hold up renames if need be."""
        first = True
        while self._barrier:
            if not first and self._renames_may_pass.is_set():
                self._renames_may_pass = trio.Event()
            first = False
            inodes, self._barrier = self._barrier, set()
            try:
                await self._run(self._store.flusher.flush_some(sorted(inodes)))
            except (LostBytes, OSError) as exc:
                # All other files' commits are worth more than "old or new content" of this one.
                log.error("a renamed file could not be flushed and may be lost in a crash: %s", exc)
            except BaseException:
                self._barrier |= inodes
                raise
