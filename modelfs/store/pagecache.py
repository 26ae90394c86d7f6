"""The page cache: decoded chunks, the least recently used dropped first.

Keyed by chunk, so files that share a chunk share its decoded bytes. Plain chunks are not kept
here: the kernel's page cache of their pack serves them as fast.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from modelfs.store.singleflight import SingleFlight
from modelfs.store.tables import ChunkId

CAPACITY: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Counted since the cache was made; `bytes` and `capacity` are sizes."""

    hits: int
    misses: int
    bytes: int
    capacity: int


class PageCache:
    """Bytes by chunk, bounded in size. Any thread may use it."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._pages: OrderedDict[ChunkId, bytes] = OrderedDict()
        self._flights: SingleFlight[ChunkId, bytes] = SingleFlight()
        self._lock = threading.Lock()
        self._size = 0
        self._hits = 0
        self._misses = 0

    def peek(self, chunk: ChunkId) -> bytes | None:
        """Return the chunk's bytes if they are here at once."""
        with self._lock:
            if (page := self._pages.get(chunk)) is None:
                return None
            self._pages.move_to_end(chunk)
            self._hits += 1
            return page

    def get(self, chunk: ChunkId, load: Callable[[], bytes]) -> bytes:
        """Return the chunk's bytes, calling `load` unless they are here.

        Threads that want the same chunk at the same time wait for one of them to load it, and
        get its result or its exception.
        """
        if (page := self.peek(chunk)) is not None:
            return page
        return self._flights.do(chunk, lambda: self._load(chunk, load))

    def _load(self, chunk: ChunkId, load: Callable[[], bytes]) -> bytes:
        page = load()
        with self._lock:
            self._misses += 1
            self._keep(chunk, page)
        return page

    def _keep(self, chunk: ChunkId, page: bytes) -> None:
        if len(page) > self._capacity or chunk in self._pages:
            return
        self._pages[chunk] = page
        self._size += len(page)
        while self._size > self._capacity:
            _, dropped = self._pages.popitem(last=False)
            self._size -= len(dropped)

    def forget(self, chunk: ChunkId) -> None:
        with self._lock:
            if (page := self._pages.pop(chunk, None)) is not None:
                self._size -= len(page)

    def statistics(self) -> CacheStatistics:
        with self._lock:
            return CacheStatistics(self._hits, self._misses, self._size, self._capacity)
