"""The driver of a mounted store: it runs jobs beside the requests. See `jobs.steps`."""

from collections.abc import Callable
from typing import Any, TypeVar

import trio

from modelfs.fs.background.durability import Durability
from modelfs.jobs.steps import Commit, Job, Pause, Step, Work
from modelfs.store.disk.calls import drive_async

T = TypeVar("T")


class Driver:
    """Runs jobs on the event loop, and their slow calls on threads."""

    def __init__(self, durability: Durability, workers: trio.CapacityLimiter) -> None:
        self._durability = durability
        self._workers = workers

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
        return None

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function on a thread, and return its result."""
        return await trio.to_thread.run_sync(function, limiter=self._workers)
