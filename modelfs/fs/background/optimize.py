"""BackgroundOptimize a mounted store: for somebody who waits, or by itself while nobody uses it."""

import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import trio

from modelfs.errors import ModelfsError
from modelfs.fs.background.defrag import BackgroundDefrag
from modelfs.fs.background.durability import Durability
from modelfs.fs.background.gc import retire_empty_packs
from modelfs.fs.background.pack_lock import PackLock
from modelfs.fs.handles import Handles
from modelfs.jobs.optimize.backlog import OptimizeStatus
from modelfs.jobs.optimize.batch import Batch, BatchResult
from modelfs.jobs.optimize.worker import Worker
from modelfs.store.store import Store

log = logging.getLogger(__name__)

Progress = Callable[[int, int], Awaitable[None]]

# Nobody uses the store if there was no request for its content for so long.
IDLE_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 10.0
# What could not be done is tried again by itself after so long, or when there is other work.
RETRY_SECONDS: Final = 600.0


class BackgroundOptimize:
    """Runs the optimizer, one batch at a time."""

    def __init__(
        self,
        store: Store,
        handles: Handles,
        workers: trio.CapacityLimiter,
        durability: Durability,
        pack_lock: PackLock,
    ) -> None:
        self._store = store
        self._handles = handles
        self._workers = workers
        self._durability = durability
        self._pack_lock = pack_lock
        self.by_itself = True
        self._packing = BackgroundDefrag(store, workers, durability, pack_lock)
        self._asked = 0  # how many wait for it
        self._moved = trio.Event()
        self._settler: Worker | None = None
        self._failure: Exception | None = None
        self._ended = False  # nothing was left that it could do when it last looked
        self._left: OptimizeStatus | None = None  # what was left then
        self._left_at = 0.0
        self._done = 0
        self._total = 0

    @property
    def running(self) -> bool:
        return self._settler is not None

    # -- for who waits

    async def follow(
        self, progress: Progress, depth: int | None = None, *, again: bool = False
    ) -> None:
        """Optimize everything, and return when nothing is left to do.

        Raises:
            ModelfsError, OSError: it cannot go on.
        """
        self._begin(depth, again=again)
        self._asked += 1
        try:
            while not self._ended and self._failure is None:
                moved = self._moved  # it may move while that is told
                await progress(
                    min(self._done, self._total) + self._packing.done,
                    self._total + self._packing.total,
                )
                await moved.wait()
        finally:
            self._asked -= 1
            if not self._asked and self._settler is not None:
                self._settler.stop()
        if self._failure is not None:
            raise self._failure

    def _begin(self, depth: int | None, *, again: bool) -> None:
        if self._settler is not None:
            self._settler.stop()  # it is of another run: another depth, or fewer threads
        self._store.optimizer.begin(depth, again=again)
        self._done, self._total = 0, self._store.optimizer.status().bytes
        self._failure = None
        self._ended = False
        self._tell()

    # -- the work

    async def run(self) -> None:
        """Optimize whenever that is asked for or nobody minds, until cancelled."""
        try:
            while True:
                if self._asked:
                    await self._advance(os.cpu_count() or 1)
                elif self._may_run():
                    await self._advance(1)
                else:
                    self._drop_settler()
                    self._packing.drop()
                    with trio.move_on_after(LOOK_SECONDS):
                        await self._moved.wait()
        finally:
            self._drop_settler()

    def _may_run(self) -> bool:
        idle = self.by_itself and self._handles.idle_seconds() > IDLE_SECONDS
        if idle and self._ended and not self._asked and self._has_more():
            self._ended = False
            self._store.optimizer.begin()
        return idle and not self._ended and not any(True for _ in self._store.staging)

    def _has_more(self) -> bool:
        # A full disk or a damaged base is not tried without end.
        status = self._store.optimizer.status()
        if not (status.files or status.base_only_chunks):
            return False
        return status != self._left or trio.current_time() > self._left_at + RETRY_SECONDS

    def _end(self) -> None:
        self._ended = True
        self._left = self._store.optimizer.status()
        self._left_at = trio.current_time()
        self._drop_settler()
        self._packing.drop()  # of a portion that failed, the next plan knows

    async def _advance(self, threads: int) -> None:
        try:
            if not (await self._settle_next(threads) or await self._packing.advance()):
                self._end()
        except (ModelfsError, OSError) as exc:
            log.error("the optimizer stopped: %s", exc)
            self._fail(exc)
        except Exception as exc:
            # The run ends here, not the mount.
            log.exception("the optimizer stopped: bug")
            self._fail(exc)
        self._tell()

    def _fail(self, exc: Exception) -> None:
        self._failure = exc
        self._end()

    async def _settle_next(self, threads: int) -> bool:
        async with self._pack_lock.append():
            run = partial(trio.to_thread.run_sync, limiter=self._workers)
            batch = await run(self._store.optimizer.next_batch)
            if batch is None:
                return False
            settled = await self._work(batch, threads)
            admits = partial(self._store.optimizer.admits, settled)
            while not self._store.intake.publish(settled.written, admits):
                await self._durability.pause()
            while not self._store.optimizer.take(settled):
                await self._durability.pause()
            if not self._pack_lock.is_pinned:
                await retire_empty_packs(self._store, self._durability)
        self._done += batch.bytes
        return True

    async def _work(self, batch: Batch, threads: int) -> BatchResult:
        if self._settler is None:
            self._settler = self._store.settler(threads)
        with self._store.writing() as writer:
            settled = await trio.to_thread.run_sync(
                self._settler.work, batch, writer, limiter=self._workers
            )
        if settled.stopped:
            self._drop_settler()  # it was stopped
        return settled

    def _drop_settler(self) -> None:
        if self._settler is not None:
            self._settler.close()
            self._settler = None

    def _tell(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
