"""A pipeline: work on several threads, whose results are taken in the order of the work."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Pipeline(Generic[T]):
    """Runs work ahead of the taking of its results. For one thread."""

    def __init__(self, threads: int, ahead: int) -> None:
        """Begin without work; results of at most `ahead` pieces wait to be taken."""
        self._pool = ThreadPoolExecutor(threads, "optimize")
        self._ahead = ahead
        self._waiting: deque[tuple[Future[T], Callable[[Future[T]], None]]] = deque()

    def add(self, work: Callable[[], T], take: Callable[[Future[T]], None]) -> None:
        """Have something done soon, and `take` called with what came of it, on this thread."""
        self._waiting.append((self._pool.submit(work), take))
        self.drain(self._ahead)

    def drain(self, keep: int = 0) -> None:
        """Take results until no more than `keep` are left. What `take` raises passes through."""
        while len(self._waiting) > keep:
            future, take = self._waiting.popleft()
            take(future)

    def drop(self) -> None:
        """Forget all work that has not begun, and all results."""
        while self._waiting:
            self._waiting.popleft()[0].cancel()

    def close(self) -> None:
        """End the threads, when they are done with what they do."""
        self._pool.shutdown(cancel_futures=True)
