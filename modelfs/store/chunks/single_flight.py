"""One run of a computation for all threads that need its result at the same time.

Theory of operation. The first caller puts a run into a table; others find it there, and wait for
its lock. An exception such as `KeyboardInterrupt` may end the first caller at any point. So the run
is in the table only inside a `try`, whose `finally` removes it and releases the lock, without a
call in between at which another exception could come.

Example. Threads A, B and C call `do(7, work)` while A's `work` runs. It runs once, on A; all three
get its result, or its exception. A call after that runs `work` again.
"""

from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class _Run(Generic[T]):
    """A run; its lock is held until it has a result or an error."""

    __slots__ = ("error", "lock", "result")

    def __init__(self) -> None:
        self.lock = Lock()
        self.lock.acquire()
        self.result: T
        self.error: BaseException | None = None


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
            own.lock.release()
        with run.lock:
            if run.error is not None:
                raise run.error
            return run.result
