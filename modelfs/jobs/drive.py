"""Run a job to its end on the calling thread, which owns the store.

As in a daemon, changes are committed every few seconds, and when many of them are in memory.

Ctrl-C must not come in the middle of a change: a part of its rows would be changed. So the signal
is deferred to the next step, where `KeyboardInterrupt` is raised in the job. Only a slow call is
interrupted at once, since it changes no row.

Example. A job makes a change of three rows, pauses, and begins a slow call. Ctrl-C during the
change is raised at the pause, after all three rows; Ctrl-C during the call, in the call.
"""

import signal
import time
from collections.abc import Callable
from threading import current_thread, main_thread
from types import FrameType
from typing import Any, Final, Self, TypeVar

from modelfs.jobs.steps import CHANGES_MAX, Commit, Hold, Job, Step, Work
from modelfs.store.disk.calls import drive
from modelfs.store.store import Store

T = TypeVar("T")

COMMIT_SECONDS: Final = 5.0


def run(job: Job[T], store: Store) -> T:
    """Run a job to its end, and return its result.

    An exception of a step is raised in the job, which may handle it.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed, and the job did not handle it.
    """
    with _DeferredInterrupts() as interrupts:
        return drive(job, _StepExecutor(store, interrupts).execute)


def run_and_commit(job: Job[T], store: Store) -> T:
    """Run a job and commit, also when it raises: the changes made until then are kept."""
    with _DeferredInterrupts() as interrupts:
        try:
            return drive(job, _StepExecutor(store, interrupts).execute)
        finally:
            store.commit()


class _DeferredInterrupts:
    """Inside its block, Ctrl-C is raised during slow calls and between steps only.

    It is raised at the end of the block at the latest, unless another exception ends the block.
    Python delivers signals to the main thread, so on another one the block defers nothing.
    """

    def __init__(self) -> None:
        self._previous: Callable[[int, FrameType | None], Any] | None = None
        self._in_call = False
        self._pending = False

    def __enter__(self) -> Self:
        previous = signal.getsignal(signal.SIGINT)
        if callable(previous) and current_thread() is main_thread():
            self._previous = previous
            signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
        if kind is None:
            self.deliver()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function, which Ctrl-C may interrupt."""
        self._in_call = True
        try:
            self.deliver()
            return function()
        finally:
            self._in_call = False

    def deliver(self) -> None:
        """Raise the interrupt that was deferred, if there is one."""
        if self._pending and self._previous is not None:
            self._pending = self._in_call = False
            self._previous(signal.SIGINT, None)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self._pending = True
        if self._in_call:
            self.deliver()


class _StepExecutor:
    """Executes the steps of one job; at a pause, it commits if that is due."""

    def __init__(self, store: Store, interrupts: _DeferredInterrupts) -> None:
        self._store = store
        self._interrupts = interrupts
        self._committed = time.monotonic()
        self._holds = False

    def execute(self, step: Step) -> Any:
        if isinstance(step, Work):
            return self._interrupts.call(step.call)
        self._interrupts.deliver()
        if isinstance(step, Hold):
            return self._hold(step)
        waited = time.monotonic() - self._committed
        is_due = waited > COMMIT_SECONDS or self._store.index.changes > CHANGES_MAX
        if is_due or isinstance(step, Commit):
            self._store.commit()
            self._committed = time.monotonic()
        return None

    def _hold(self, step: Hold) -> Any:
        # No other job has the store. But a job that waits for itself in a daemon fails here, too.
        assert not self._holds, "a job that has a right on packs asks for one"
        self._holds = True
        try:
            return drive(step.job, self.execute)
        finally:
            self._holds = False
