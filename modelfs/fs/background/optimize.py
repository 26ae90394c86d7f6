"""Optimizing beside the requests: for a command, or without one while the store is idle.

Theory of operation. A *run* (`jobs.composed.optimize`) goes part by part, each of which holds the
pack lock for itself, so that ingest comes in between. It ends when nothing is left that it can do,
or with an error::

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

from modelfs.errors import CorruptIndex, ModelfsError
from modelfs.fs.background.context import AsyncProgress, Context
from modelfs.fs.changed import Changed
from modelfs.jobs.composed.optimize import OptimizeRun
from modelfs.jobs.gc.collector import Collector
from modelfs.jobs.optimize.backlog import Backlog

log = logging.getLogger(__name__)


# The store is idle if there was no request for a file's content for so long.
IDLE_SECONDS: Final = 60.0
IDLE_CHECK_SECONDS: Final = 10.0
# A run that left something undone is tried again after so long, or when there is other work.
UNDONE_RETRY_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class _Ended:
    """A run that ended, with the backlog that it left, and the exception if it failed."""

    version: tuple[int, ...]  # of the backlog
    at: float  # trio's time
    failure: Exception | None


class BackgroundOptimize:
    """Advances a run while a command waits for it, or while the store is idle."""

    def __init__(self, context: Context, collector: Collector) -> None:
        self._context = context
        self._store = context.store
        self._collector = collector
        self.backlog = Backlog(context.store)
        self._followers = 0  # commands that wait
        self._state: OptimizeRun | _Ended = self._new_run()
        self._changed = Changed()

    @property
    def running(self) -> bool:
        """Whether an optimizer is at work now."""
        return isinstance(self._state, OptimizeRun) and self._state.at_work

    def _new_run(self) -> OptimizeRun:
        return OptimizeRun(self._store, self.backlog, self._collector)

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
            run.backlog_bytes = (await self._context.driver.call(self.backlog.status)).bytes
            while isinstance(state := self._state, OptimizeRun):
                changed = self._changed.next()  # the state may change during `progress`
                await progress(state.done, state.total)
                await changed.wait()
        finally:
            self._followers -= 1
            if not self._followers:
                self.rest()
        if state.failure is not None:
            raise state.failure

    # -- the run

    def _start_run(
        self, depth: int | None = None, *, include_optimized: bool = False
    ) -> OptimizeRun:
        self.rest()  # the new run may have another depth or more threads
        self.backlog.begin(depth, include_optimized=include_optimized)
        self._state = run = self._new_run()
        self._changed.notify()
        return run

    def rest(self) -> None:
        """Let the batch under way end soon, since other work needs the packs; the run goes on."""
        if isinstance(self._state, OptimizeRun):
            self._state.stop_batch()

    async def run(self) -> None:
        """Optimize while a command waits or the store is idle, until cancelled."""
        while True:
            if self._followers and isinstance(self._state, OptimizeRun):
                await self._advance(self._state, os.cpu_count() or 1)
            elif (idle := self._idle_run()) is not None:
                await self._advance(idle, 1)
            else:
                if isinstance(self._state, OptimizeRun):
                    self._state.rest()
                with trio.move_on_after(IDLE_CHECK_SECONDS):
                    await self._changed.wait()

    def _idle_run(self) -> OptimizeRun | None:
        """Return the run to go on with without a command, a new one if the last one has ended."""
        if self._context.handles.idle_seconds() <= IDLE_SECONDS:
            return None
        run = self._state
        if isinstance(run, _Ended):
            # Unchanged work failed before, on a full disk or a damaged base: not at once again.
            is_unchanged = self._version_if_readable() == run.version
            if is_unchanged and trio.current_time() <= run.at + UNDONE_RETRY_SECONDS:
                return None
            if not self.backlog.has_work():
                return None
            run = self._start_run()
        return None if len(self._store.staging) else run

    def _version_if_readable(self) -> tuple[int, ...]:
        """Return the backlog's version, () while a row of it is damaged.

        That counts as unchanged.
        """
        try:
            return self.backlog.version()
        except CorruptIndex:
            return ()

    async def _advance(self, run: OptimizeRun, threads: int) -> None:
        """Do the next part of a run; another run may take its place meanwhile."""
        is_over = True
        failure: Exception | None = None
        try:
            is_over = not await self._context.driver.run(run.advance(threads))
        except (ModelfsError, OSError) as exc:
            log.error("optimizing stopped: %s", exc)
            failure = exc
        except Exception as exc:
            # A bug ends the run, not the mount.
            log.exception("optimizing stopped: bug")
            failure = exc
        finally:
            if is_over or run is not self._state:
                run.rest()
        if is_over and run is self._state:
            self._state = _Ended(self._version_if_readable(), trio.current_time(), failure)
        self._changed.notify()
