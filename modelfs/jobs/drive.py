"""Run a job to its end on the calling thread, which owns the store.

As in a daemon, changes are committed every few seconds, and when many of them are in memory.
"""

import time
from contextlib import closing
from typing import Any, Final, TypeVar

from modelfs.jobs.steps import CHANGES_MAX, Commit, Job, Step, Work
from modelfs.store.store import Store

T = TypeVar("T")

COMMIT_SECONDS: Final = 5.0


def run(job: Job[T], store: Store) -> T:
    """Run a job to its end, and return its result.

    An exception of a step is raised in the job, which may handle it.
    """
    executor = _StepExecutor(store)
    result: Any = None
    error: BaseException | None = None
    with closing(job):  # Ctrl-C may come between two steps
        while True:
            try:
                step = job.send(result) if error is None else job.throw(error)
            except StopIteration as end:
                value: T = end.value
                return value
            result = error = None
            try:
                result = executor.execute(step)
            except BaseException as exc:
                error = exc


def run_and_commit(job: Job[T], store: Store) -> T:
    """Run a job and commit, also when it raises: the changes made until then are kept."""
    try:
        return run(job, store)
    finally:
        store.commit()


class _StepExecutor:
    """Executes the steps of one job; at a pause, it commits if that is due."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._committed = time.monotonic()

    def execute(self, step: Step) -> Any:
        if isinstance(step, Work):
            return step.call()
        waited = time.monotonic() - self._committed
        is_due = waited > COMMIT_SECONDS or self._store.index.changes > CHANGES_MAX
        if is_due or isinstance(step, Commit):
            self._store.commit()
            self._committed = time.monotonic()
        return None
