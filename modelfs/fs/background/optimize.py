"""Optimizing beside the requests: for a command, or without one while the store is idle.

Theory of operation. A *run* goes batch by batch, each with the pack lock, so that ingest comes in
between. Garbage is collected between two batches if there is much of it (see `optimize.room`). Then
it brings scattered files together, portion by portion. A run ends when nothing is left that it can
do, or with an error::

    Running --- nothing left, or an error ---> Ended
    Ended   --- a command, or the store is idle and has more to do than before ---> Running

A run for a command uses all processors, and its batch stops early when the command is interrupted.
A run without a command uses one processor, and only while no open file was used for a minute.

Example. A fine-tune of 100 tensors was copied in. After a minute without requests, a run starts on
one thread, and optimizes a batch of 64 MiB. A program reads a model: the run rests. `modelfs
optimize` starts a new run on all processors; it passes over the tensors that are optimized already.
"""

import logging
import os
from dataclasses import dataclass
from typing import Final

import trio

from modelfs.errors import ModelfsError, StoreFull
from modelfs.fs.background.context import AsyncProgress, Context
from modelfs.fs.background.defrag import BackgroundDefrag
from modelfs.fs.background.gc import BackgroundGc
from modelfs.fs.changed import Changed
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.job import Optimizer
from modelfs.jobs.optimize.room import garbage_max

log = logging.getLogger(__name__)


# The store is idle if there was no request for a file's content for so long.
IDLE_SECONDS: Final = 60.0
IDLE_CHECK_SECONDS: Final = 10.0
# A run that left something undone is tried again after so long, or when there is other work.
UNDONE_RETRY_SECONDS: Final = 600.0


@dataclass(slots=True)
class _Running:
    """A run that has not ended; it may rest while the store is in use."""

    total: int = 0  # bytes of files, for a command
    done: int = 0


@dataclass(frozen=True, slots=True)
class _Ended:
    """A run that ended, with the backlog that it left, and the exception if it failed."""

    version: tuple[int, ...]  # of the backlog
    at: float  # trio's time
    failure: Exception | None


class BackgroundOptimize:
    """Runs the optimizer and then the defragmenter, a batch at a time."""

    def __init__(self, context: Context, gc: BackgroundGc) -> None:
        self._context = context
        self._store = context.store
        self._gc = gc
        self._had_no_room = False  # for the last batch
        self.backlog = Backlog(context.store)
        self._defrag = BackgroundDefrag(context)
        self._followers = 0  # commands that wait
        self._state: _Running | _Ended = _Running()
        self._optimizer: Optimizer | None = None  # with its threads, while the run is not resting
        self._changed = Changed()

    @property
    def running(self) -> bool:
        """Whether an optimizer is at work now."""
        return self._optimizer is not None

    # -- the optimize command

    async def follow(
        self, progress: AsyncProgress, depth: int | None = None, *, include_optimized: bool = False
    ) -> None:
        """Start a run, and return when it ends.

        Args:
            progress: called with how many bytes are done, and how many there are.
            depth: how many deltas may follow one another, from now on; None: as before.
            include_optimized: look at chunks that are optimized already, too.

        Raises:
            ModelfsError, OSError: the run failed.
        """
        run = self._start_run(depth, include_optimized=include_optimized)
        self._followers += 1
        try:
            run.total = (await self._context.driver.call(self.backlog.status)).bytes
            while isinstance(state := self._state, _Running):
                changed = self._changed.next()  # the state may change during `progress`
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

    # -- the run

    def _start_run(self, depth: int | None = None, *, include_optimized: bool = False) -> _Running:
        if self._optimizer is not None:
            self._optimizer.stop()  # the new run may have another depth or more threads
        self.backlog.begin(depth, include_optimized=include_optimized)
        self._state = run = _Running()
        self._changed.notify()
        return run

    def rest(self) -> None:
        """Let the batch under way end soon, since other work needs the packs; the run goes on."""
        if self._optimizer is not None:
            self._optimizer.stop()

    async def run(self) -> None:
        """Optimize while a command waits or the store is idle, until cancelled."""
        try:
            while True:
                if self._followers and isinstance(self._state, _Running):
                    await self._advance(os.cpu_count() or 1)
                elif self._may_run_idle():
                    await self._advance(1)
                else:
                    self._close_optimizer()
                    self._defrag.drop_plan()
                    with trio.move_on_after(IDLE_CHECK_SECONDS):
                        await self._changed.wait()
        finally:
            self._close_optimizer()

    def _may_run_idle(self) -> bool:
        """Whether to go on without a command; starts a run if the last one has ended."""
        if self._context.handles.idle_seconds() <= IDLE_SECONDS:
            return False
        if isinstance(ended := self._state, _Ended):
            if not self.backlog.has_work():
                return False
            # Unchanged work failed before, on a full disk or a damaged base: not at once again.
            is_unchanged = self.backlog.version() == ended.version
            if is_unchanged and trio.current_time() <= ended.at + UNDONE_RETRY_SECONDS:
                return False
            self._start_run()
        return not len(self._store.staging)

    async def _advance(self, threads: int) -> None:
        try:
            await self._gc.collect_above(0 if self._had_no_room else garbage_max(self._store))
            self.backlog.fit_batches()
            if not (await self._optimize_batch(threads) or await self._defrag.copy_next()):
                self._end(None)
            self._had_no_room = False
        except StoreFull as exc:
            if self._had_no_room:
                log.error("optimizing stopped: %s", exc)
                self._end(exc)
            self._had_no_room = not self._had_no_room  # else once more, after a collection
        except (ModelfsError, OSError) as exc:
            log.error("optimizing stopped: %s", exc)
            self._end(exc)
        except Exception as exc:
            # A bug ends the run, not the mount.
            log.exception("optimizing stopped: bug")
            self._end(exc)
        self._changed.notify()

    def _end(self, failure: Exception | None) -> None:
        self._state = _Ended(self.backlog.version(), trio.current_time(), failure)
        self._close_optimizer()
        self._defrag.drop_plan()  # the next plan includes a portion that failed

    async def _optimize_batch(self, threads: int) -> bool:
        """Optimize the next batch; return False if there is none."""
        pack_lock = self._context.pack_lock
        async with pack_lock.append():
            if self._optimizer is None:
                self._optimizer = Optimizer(self._store, self.backlog, threads)
            optimizing = self._optimizer.optimize_batch(lambda: not pack_lock.is_pinned)
            result = await self._context.driver.run(optimizing)
            if self._optimizer.stopped:
                self._close_optimizer()
            if result is None:
                return False
        if isinstance(self._state, _Running) and not result.stopped:
            self._state.done += result.batch.bytes
        return True

    def _close_optimizer(self) -> None:
        if self._optimizer is not None:
            self._optimizer.close()
            self._optimizer = None
