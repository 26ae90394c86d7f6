"""One run of a computation for all threads that need its result at the same time.

Theory of operation. The first caller puts a run into a table; others find it there, and wait for
its lock. An exception such as `KeyboardInterrupt` may end the first caller at any point. So the run
is in the table only inside a `try`, whose `finally` removes it and releases the lock, without a
call in between at which another exception could come. Such an exception concerns only the thread in
which it was raised: the others try again.

A thread must not wait for itself. A signal handler or `__del__` may come in the middle of a run, in
its thread, and need the result; or wait for a thread that waits for this one. Nor may a thread wait
for a run that a fork has left behind in the other process. In these cases it does the work itself.

Example. Threads A, B and C call `do(7, work)` while A's `work` runs. It runs once, on A; all three
get its result, or its error. A call after that runs `work` again. If a signal handler in A's `work`
calls `do(7, work)`, that runs `work` for the handler alone.

docs/design/forks.md has all rules about forks and Ctrl-C.
"""

import os
from collections.abc import Callable, Hashable
from threading import Lock, get_ident
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

# The longest time until a child of a fork notices that a run is in its parent.
WAIT_SECONDS: Final = 0.05

# The threads that helpers work for, which wait for them, by the helper.
EMPLOYERS: Final[dict[int, int]] = {}
# The threads that a thread waits for: several if a signal handler waits inside a wait.
_awaited: Final[dict[int, tuple[int, ...]]] = {}


class _Run(Generic[T]):
    """A run; its lock is held until it has a result or an error."""

    __slots__ = ("error", "is_done", "lock", "process", "result", "thread")

    def __init__(self) -> None:
        self.lock = Lock()
        self.lock.acquire()
        self.thread = get_ident()
        self.process = os.getpid()
        self.result: T
        self.error: BaseException | None = None
        self.is_done = False

    def wait(self) -> bool:
        """Wait until the run is done; False if it waits for this thread, or is in another process.

        An interrupted waiter may keep the lock, so the others look at `is_done` from time to time.
        """
        thread = get_ident()
        outer = _awaited.get(thread, ())
        _awaited[thread] = (*outer, self.thread)  # before the check, so that one of a cycle sees it
        try:
            if _waits_for(self.thread, thread):
                return False
            while not self.is_done:
                if self.process != os.getpid():
                    return False
                if self.lock.acquire(timeout=WAIT_SECONDS):
                    self.lock.release()
            return True
        finally:
            _awaited[thread] = outer
            if not outer:
                del _awaited[thread]


def _waits_for(thread: int, waited: int) -> bool:
    """Whether a thread is one that waits for `waited`, or for a thread that does."""
    employers = dict(EMPLOYERS)
    pending, checked = [thread], set[int]()
    while pending:
        if (current := pending.pop()) == waited:
            return True
        if current not in checked:
            checked.add(current)
            pending += _awaited.get(current, ())
            pending += [helper for helper, employer in employers.items() if employer == current]
    return False


class SingleFlight(Generic[K, T]):
    """Running computations, by key."""

    def __init__(self) -> None:
        self._running: dict[K, _Run[T]] = {}

    def do(self, key: K, work: Callable[[], T]) -> T:
        """Return the result of `work`, or of the thread that is running it for this key already."""
        own: _Run[T] = _Run()
        try:
            run = self._running.setdefault(key, own)
            if run is own:
                own.result = work()
                return own.result
        except BaseException as exc:
            own.error = exc
            raise
        finally:
            # The key goes before the result is out: a later caller must not get an old result.
            if key in self._running and self._running[key] is own:
                del self._running[key]
            own.is_done = True
            own.lock.release()
        if not run.wait():
            return work()
        if run.error is None:
            return run.result
        if isinstance(run.error, Exception):
            raise run.error
        return self.do(key, work)
