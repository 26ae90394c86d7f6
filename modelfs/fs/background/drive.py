"""The driver of a mounted store: it runs jobs beside the requests. See `jobs.steps`."""

from collections.abc import Callable
from typing import Any, TypeVar

import trio

from modelfs.fs.background.durability import Durability
from modelfs.fs.background.pack_lock import PackLock
from modelfs.jobs.steps import Commit, Hold, Job, Pause, Right, Step, Work
from modelfs.store.disk.calls import drive_async

T = TypeVar("T")


class Driver:
    """Runs jobs on the event loop, and their slow calls on threads."""

    def __init__(
        self, durability: Durability, workers: trio.CapacityLimiter, pack_lock: PackLock
    ) -> None:
        self._durability = durability
        self._workers = workers
        self._pack_lock = pack_lock

    async def run(self, job: Job[T]) -> T:
        """Run a job to its end, and return its result.

        If a step raises, the exception is raised in the job, which may handle it. A cancelled job
        gets `trio.Cancelled` at its next step, after the call that a thread may be in.
        """
        return await drive_async(job, self._execute)

    async def _execute(self, step: Step) -> Any:
        match step:
            case Work(call):
                return await self.call(call)
            case Commit():
                await self._durability.commit()
            case Pause():
                await self._durability.pause()
            case Hold(right, job):
                return await self._hold(right, job)
        return None

    async def _hold(self, right: Right, job: Job[Any]) -> Any:
        match right:
            case Right.APPEND:
                async with self._pack_lock.append():
                    return await self.run(job)
            case Right.EXCLUSIVE:
                async with self._pack_lock.exclusive():
                    return await self.run(job)
            case Right.UNLESS_PINNED:
                async with self._pack_lock.unless_pinned() as is_exclusive:
                    return await self.run(job) if is_exclusive else None

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function on a thread, and return its result."""
        return await trio.to_thread.run_sync(function, limiter=self._workers)
