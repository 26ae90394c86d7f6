"""The driver of a mounted store: it runs jobs beside the requests. See `jobs.steps`."""

from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

import trio

from modelfs.fs.background.durability import Durability
from modelfs.jobs.steps import Commit, Job, Pause, Work

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
        result: Any = None
        error: BaseException | None = None
        with closing(job):
            while True:
                try:
                    step = job.send(result) if error is None else job.throw(error)
                except StopIteration as end:
                    value: T = end.value
                    return value
                result = error = None
                try:
                    match step:
                        case Work(call):
                            result = await self.call(call)
                        case Commit():
                            await self._durability.commit()
                        case Pause():
                            await self._durability.pause()
                except BaseException as exc:
                    error = exc

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function on a thread, and return its result."""
        return await trio.to_thread.run_sync(function, limiter=self._workers)
