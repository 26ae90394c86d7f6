"""Jobs of which one step fails: by an error of its call or its commit, or by a cancellation."""

from typing import Any, Final, TypeVar

from modelfs.jobs.steps import Commit, Hold, Job, Pause, Step, Work
from modelfs.store.disk.calls import drive
from modelfs.store.store import Store

T = TypeVar("T")

ALL: Final = (Work, Pause, Commit, Hold)
# Where a driver commits, and so finds the disk full.
COMMITS: Final = (Pause, Commit)


class Cancelled(BaseException):
    """Ends a job at a step, as `trio.Cancelled` does."""


class FailingStep:
    """Runs jobs on a store; the n-th of their steps, counted from 0, raises, and only that."""

    def __init__(
        self, store: Store, number: int, error: BaseException, kinds: tuple[type, ...] = ALL
    ) -> None:
        """Count steps of these kinds only."""
        self._store = store
        self._left = number
        self._error = error
        self._kinds = kinds

    @property
    def reached(self) -> bool:
        """Whether the step has come."""
        return self._left < 0

    def run(self, job: Job[T]) -> T:
        return drive(job, self._execute)

    def _execute(self, step: Step) -> Any:
        if isinstance(step, self._kinds):
            self._left -= 1
            if self._left == -1:
                raise self._error
        match step:
            case Work(call):
                return call()
            case Commit():
                self._store.commit()
            case Hold(_, job):
                return drive(job, self._execute)
        return None
