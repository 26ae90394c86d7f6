"""A pipeline: calls on several threads, whose results are handled in the order of the calls."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Pipeline(Generic[T]):
    """Runs calls on threads ahead of the handling of their results. Used by one thread."""

    def __init__(self, threads: int, ahead: int) -> None:
        """Start without calls; at most `ahead` results wait for their handlers."""
        self._pool = ThreadPoolExecutor(threads, "optimize")
        self._ahead = ahead
        self._waiting: deque[tuple[Future[T], Callable[[Future[T]], None]]] = deque()

    def add(self, call: Callable[[], T], handle: Callable[[Future[T]], None]) -> None:
        """Submit a call; `handle` gets its finished future, later and on this thread."""
        self._waiting.append((self._pool.submit(call), handle))
        self.drain(self._ahead)

    def drain(self, keep: int = 0) -> None:
        """Handle results until no more than `keep` are left. Raises the errors of handlers."""
        while len(self._waiting) > keep:
            future, handle = self._waiting.popleft()
            handle(future)

    def drop(self) -> None:
        """Cancel the calls that have not begun, and discard all results."""
        while self._waiting:
            self._waiting.popleft()[0].cancel()

    def close(self) -> None:
        """End the threads after the calls under way."""
        self._pool.shutdown(cancel_futures=True)
