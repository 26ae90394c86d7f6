"""One run of a computation for all threads that need its result at the same time.

Example. Threads A, B and C call `do(7, work)` while A's `work` runs. It runs once, on A; all three
get its result, or its exception. A call after that runs `work` again.
"""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """Running computations, by key."""

    def __init__(self) -> None:
        self._running: dict[K, Future[T]] = {}
        self._lock = threading.Lock()

    def do(self, key: K, work: Callable[[], T]) -> T:
        """Return the result of `work`, or of the thread that is running it for this key already."""
        with self._lock:
            future = self._running.get(key)
            if is_first := future is None:
                future = self._running[key] = Future()
        if is_first:
            # The key goes before the result is set: a later caller must not get an old result.
            try:
                result = work()
            except BaseException as exc:
                self._end(key)
                future.set_exception(exc)
            else:
                self._end(key)
                future.set_result(result)
        return future.result()

    def _end(self, key: K) -> None:
        with self._lock:
            del self._running[key]
