"""Optimizing beside the requests: for a command that waits, or by itself while the store is idle.

A *run* goes batch by batch, each with the pack lock, so that ingest comes in between; then
scattered files are brought together, portion by portion. A run ends when nothing is left that it
can do, or when it fails::

    Running --- nothing left, or an error ---> Ended
    Ended   --- a command, or idle and there is more to do than when it ended ---> Running

A command uses all processors, and stops the batch under way when it goes away. By itself one
processor is used, and only while no file is open that was used within a minute.
"""

import logging
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio

from modelfs.errors import ModelfsError
from modelfs.fs.background.context import Context
from modelfs.fs.background.defrag import BackgroundDefrag
from modelfs.fs.changed import Changed
from modelfs.jobs.optimize.backlog import Backlog, OptimizeStatus
from modelfs.jobs.optimize.job import Optimizer
from modelfs.jobs.steps import pausing

log = logging.getLogger(__name__)

Progress = Callable[[int, int], Awaitable[None]]

# The store is idle if there was no request for a file's content for so long.
IDLE_SECONDS: Final = 60.0
LOOK_SECONDS: Final = 10.0
# A run that ended is tried again by itself after so long, or when there is other work.
RETRY_SECONDS: Final = 600.0


@dataclass(slots=True)
class _Running:
    """A run that has not ended; it may rest while the store is in use."""

    total: int = 0  # bytes of files
    done: int = 0


@dataclass(frozen=True, slots=True)
class _Ended:
    """A run that ended, with what it left to do, and why if it failed."""

    left: OptimizeStatus
    at: float  # trio's time
    failure: Exception | None


class BackgroundOptimize:
    """Runs the optimizer and then the defragmenter, a batch at a time."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._store = context.store
        self.backlog = Backlog(context.store)
        self.by_itself = True
        self._defrag = BackgroundDefrag(context)
        self._followers = 0  # commands that wait
        self._state: _Running | _Ended = _Running()
        self._optimizer: Optimizer | None = None  # with its threads, while it is at work
        self._changed = Changed()

    @property
    def running(self) -> bool:
        """Whether it is at work just now."""
        return self._optimizer is not None

    # -- the optimize command

    async def follow(
        self, progress: Progress, depth: int | None = None, *, include_optimized: bool = False
    ) -> None:
        """Optimize everything, and return when nothing is left to do.

        Raises:
            ModelfsError, OSError: it cannot go on.
        """
        self._begin(depth, include_optimized=include_optimized)
        self._followers += 1
        try:
            while isinstance(state := self._state, _Running):
                changed = self._changed.next()  # it may change during `progress`
                defrag = self._defrag
                await progress(
                    min(state.done, state.total) + defrag.done, state.total + defrag.total
                )
                await changed.wait()
        finally:
            self._followers -= 1
            if not self._followers and self._optimizer is not None:
                self._optimizer.stop()
        if state.failure is not None:
            raise state.failure

    def _begin(self, depth: int | None, *, include_optimized: bool) -> None:
        if self._optimizer is not None:
            self._optimizer.stop()  # it is of another run: another depth, or fewer threads
        self.backlog.begin(depth, include_optimized=include_optimized)
        self._state = _Running(self.backlog.status().bytes)
        self._changed.notify()

    # -- the work

    async def run(self) -> None:
        """Optimize when a command waits for it or the store is idle, until cancelled."""
        try:
            while True:
                if self._followers and isinstance(self._state, _Running):
                    await self._advance(os.cpu_count() or 1)
                elif self._may_run():
                    await self._advance(1)
                else:
                    self._close_optimizer()
                    self._defrag.drop_plan()
                    with trio.move_on_after(LOOK_SECONDS):
                        await self._changed.wait()
        finally:
            self._close_optimizer()

    def _may_run(self) -> bool:
        if not self.by_itself or self._context.handles.idle_seconds() <= IDLE_SECONDS:
            return False
        if isinstance(self._state, _Ended):
            if not self._has_more(self._state):
                return False
            self._state = _Running()
            self.backlog.begin()
        return not len(self._store.staging)

    def _has_more(self, ended: _Ended) -> bool:
        # A full disk or a damaged base is not tried without end.
        status = self.backlog.status()
        if not (status.files or status.base_only_chunks):
            return False
        return status != ended.left or trio.current_time() > ended.at + RETRY_SECONDS

    async def _advance(self, threads: int) -> None:
        try:
            if not (await self._optimize_next(threads) or await self._defrag.copy_next()):
                self._end(None)
        except (ModelfsError, OSError) as exc:
            log.error("the optimizer stopped: %s", exc)
            self._end(exc)
        except Exception as exc:
            # The run ends here, not the mount.
            log.exception("the optimizer stopped: bug")
            self._end(exc)
        self._changed.notify()

    def _end(self, failure: Exception | None) -> None:
        self._state = _Ended(self.backlog.status(), trio.current_time(), failure)
        self._close_optimizer()
        self._defrag.drop_plan()  # the next plan has what a portion that failed left

    async def _optimize_next(self, threads: int) -> bool:
        run = self._context.driver.run
        async with self._context.pack_lock.append():
            if self._optimizer is None:
                self._optimizer = Optimizer(self._store, self.backlog, threads)
            result = await run(self._optimizer.optimize_batch())
            if self._optimizer.stopped:
                self._close_optimizer()
            if result is None:
                return False
            if not self._context.pack_lock.is_pinned:
                await run(pausing(self._store.reclaimer.retire_empty_packs()))
        if isinstance(self._state, _Running) and not result.stopped:
            self._state.done += result.batch.bytes
        return True

    def _close_optimizer(self) -> None:
        if self._optimizer is not None:
            self._optimizer.close()
            self._optimizer = None
