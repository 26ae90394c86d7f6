"""Durability: when written data is safe, and who waits for it.

Theory of operation. *Flush* fsyncs a file's staged bytes where they are and tells the index.
*Commit* makes the index's changes durable. Waiters that come while a commit is under way share the
next one.

A rename over an existing file makes a *barrier* of the file that was renamed: no commit may contain
the new name before the content under it is durable. So a commit first flushes the files at the
barrier, and from its second attempt on lets no further rename pass.

What was written through a mapping stays in the kernel until that sends it, which it does in its own
time, or when it is asked: `take_mapped_pages` asks, before a sync and before the end.
"""

import logging
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import trio

from modelfs.fs.handles import Handles
from modelfs.fs.host.kernel import sync_mapped_files
from modelfs.jobs.steps import CHANGES_MAX
from modelfs.store.disk.calls import Calls
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

log = logging.getLogger(__name__)

FLUSH_SECONDS: Final = 20.0  # how long written data may wait for its flush; the promise is 30
# How often a file is looked for again that was renamed when its mapped pages were asked for.
MOVES_MAX: Final = 5


class Durability:
    """Flushes and commits."""

    def __init__(self, store: Store, handles: Handles, workers: trio.CapacityLimiter) -> None:
        self._store = store
        self._handles = handles
        self._workers = workers
        self._committing = trio.Lock()
        self._seals = 0
        self._barrier: set[InodeNumber] = set()
        self._gate = trio.Event()
        self._gate.set()

    # -- renames

    async def before_rename(self) -> None:
        """Wait while a commit has a barrier to get past."""
        while not self._gate.is_set():
            await self._gate.wait()

    def replaced(self, moved: InodeNumber) -> None:
        """Note that a file was renamed over another."""
        staged = self._store.staging.find(moved)
        if staged is not None and staged.dirty:
            self._barrier.add(moved)

    # -- flushing

    async def flush(self, inode: InodeNumber) -> None:
        """Put a file's staged content where the next commit makes it durable.

        Raises:
            OSError: the backing disk failed; it is not known what is durable.
        """
        await self._run(self._store.flusher.flush(inode))

    async def flush_all(self) -> None:
        """Flush every staged file.

        Raises:
            OSError: of some file; all others are flushed.
        """
        await self._run(self._store.flusher.flush_all([each.inode for each in self._store.staging]))

    async def flush_old(self) -> None:
        """Flush the files whose oldest change has waited long enough."""
        latest = time.monotonic() - FLUSH_SECONDS
        staging = self._store.staging
        old = [each.inode for each in staging if each.dirty and each.dirty_since < latest]
        await self._run(self._store.flusher.flush_all(old))

    async def _run(self, calls: Calls) -> None:
        with closing(calls):
            for call in calls:
                await trio.to_thread.run_sync(call, limiter=self._workers)

    async def sync_mapped_files(self, mountpoint: Path) -> None:
        """Have what was written through mappings sent here, while there is somebody to take it."""
        waiting = self._handles.written()
        for _ in range(MOVES_MAX):
            # Not among the workers: it waits for them.
            waiting = await trio.to_thread.run_sync(
                sync_mapped_files, mountpoint, self._paths(waiting)
            )
            if not waiting:
                return
        if moved := self._paths(waiting):
            log.warning(
                "mapped pages are not waited for, of what is renamed: %s", [*moved.values()]
            )

    def _paths(self, inodes: list[InodeNumber]) -> dict[InodeNumber, bytes]:
        nodes, namespace = self._store.inodes, self._store.namespace
        found = ((inode, nodes.find(inode)) for inode in inodes)
        return {inode: namespace.path_of(inode) for inode, node in found if node and node.nlink}

    # -- committing

    async def commit(self) -> None:
        """Make every change made so far durable.

        Raises:
            StoreFull: there is no room for the index; nothing is lost.
            OSError: the backing disk failed.
        """
        wanted = self._seals + 1  # the next one to be sealed has all changes made so far
        async with self._committing:
            if self._seals >= wanted or not self._store.index.dirty:
                return
            try:
                await self._pass_barrier()
                await self._seal_and_write()
            finally:
                self._gate.set()

    async def pause(self) -> None:
        """Let others run between two slices of long work, and commit if it has changed much.

        Raises:
            StoreFull, OSError: as `commit` does.
        """
        if self._store.index.changes > CHANGES_MAX:
            await self.commit()
        else:
            await trio.lowlevel.checkpoint()

    async def _pass_barrier(self) -> None:
        passed = 0
        while self._barrier:
            if passed and self._gate.is_set():
                self._gate = trio.Event()
            waiting, self._barrier = self._barrier, set()
            try:
                await self._run(self._store.flusher.flush_all(sorted(waiting)))
            except OSError as exc:
                # One file's "old or new" is worth less than everybody's commits.
                log.error("a file that was renamed over another is not durable: %s", exc)
            except BaseException:
                self._barrier |= waiting
                raise
            passed += 1

    async def _seal_and_write(self) -> None:
        self._seals += 1
        try:
            await self._run(self._store.commit_calls())
        except BaseException:
            # Even if it was written, and only the deletes were cancelled: one commit too many.
            self._seals -= 1
            raise
