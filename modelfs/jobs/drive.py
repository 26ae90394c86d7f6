"""Run a job here and now, on a store that this thread owns.

As a daemon does, it commits every few seconds, and when many changes wait.
"""

import time
from contextlib import closing
from typing import Any, Final, TypeVar

from modelfs.jobs.steps import CHANGES_MAX, Commit, Job, Pause, Step, Work
from modelfs.store.store import Store

T = TypeVar("T")

COMMIT_SECONDS: Final = 5.0


def run(job: Job[T], store: Store) -> T:
    """Run a job to its end, and return its result.

    A step that raises raises in the job, which may handle it.
    """
    clock = _Clock(store)
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
                result = _do(step, store, clock)
            except BaseException as exc:
                error = exc


def run_and_commit(job: Job[T], store: Store) -> T:
    """Run a job, and commit, whatever ends it: what was done by then is kept."""
    try:
        return run(job, store)
    finally:
        store.commit()


def _do(step: Step, store: Store, clock: "_Clock") -> Any:
    match step:
        case Work(call):
            return call()
        case Commit():
            return clock.commit()
        case Pause():
            return clock.commit_when_due()


class _Clock:
    """Commits by the clock."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._committed = time.monotonic()

    def commit(self) -> None:
        self._store.commit()
        self._committed = time.monotonic()

    def commit_when_due(self) -> None:
        waited = time.monotonic() - self._committed
        if waited > COMMIT_SECONDS or self._store.index.changes > CHANGES_MAX:
            self.commit()
