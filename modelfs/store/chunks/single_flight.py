"""Doing a piece of work once for all threads that want its result at the same time."""

import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """Work under way, by key."""

    def __init__(self) -> None:
        self._under_way: dict[K, Future[T]] = {}
        self._lock = threading.Lock()

    def do(self, key: K, work: Callable[[], T]) -> T:
        """Return the result of `work`, or of a thread that is doing the same already."""
        with self._lock:
            if mine := (future := self._under_way.get(key)) is None:
                future = self._under_way[key] = Future()
        if mine:
            self._run(key, work, future)
        return future.result()

    def _run(self, key: K, work: Callable[[], T], future: Future[T]) -> None:
        try:
            result = work()
        except BaseException as exc:
            self._end(key)
            future.set_exception(exc)
        else:
            self._end(key)
            future.set_result(result)

    def _end(self, key: K) -> None:
        with self._lock:
            del self._under_way[key]
