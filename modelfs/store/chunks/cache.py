"""The page cache: decoded chunks, and what else is dear to make of them.

Keyed by chunk, so files that share a chunk share its decoded bytes; tensors that are made in one
piece have keys of their own. Plain chunks are not kept here: the kernel's page cache of their pack
serves them as fast. What goes first when the cache is full, a policy says (`eviction`).
"""

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

from modelfs.store.chunks.eviction import POLICIES, Worth
from modelfs.store.chunks.single_flight import SingleFlight

CAPACITY: Final = 256 << 20
# Of variants that are served together it keeps more than LRU, and saves more of the time that
# decoding takes, whatever the order and the capacity: see tools/run bench.cache.
POLICY: Final = "shared"


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Counted since the cache was made; `bytes` and `capacity` are sizes."""

    hits: int
    misses: int
    bytes: int
    capacity: int


@dataclass(frozen=True, slots=True)
class _Page:
    content: bytes
    seconds: float


class ChunkCache:
    """Bytes by key, bounded in size. Any thread may use it.

    It holds no more bytes than its capacity, or one page that is larger and was asked for `alone`.
    Pages that are being loaded, or still in use after they were dropped, come on top.
    """

    def __init__(
        self,
        capacity: int = CAPACITY,
        policy: str = POLICY,
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """Make an empty cache.

        Args:
            capacity: in bytes.
            policy: of eviction, by its name in `POLICIES`.
            clock: seconds that the calling thread computed, by which loads are priced.
        """
        self._capacity = capacity
        self._policy = POLICIES[policy](capacity)
        self._clock = clock
        self._pages: dict[Hashable, _Page] = {}
        self._flights: SingleFlight[Hashable, bytes] = SingleFlight()
        self._lock = threading.Lock()
        self._loading = threading.local()
        self._size = 0
        self._hits = 0
        self._misses = 0

    def holds(self, key: Hashable) -> bool:
        """Say whether a page is here. That is no use of it."""
        with self._lock:
            return key in self._pages

    def peek(self, key: Hashable) -> bytes | None:
        """Return a page's bytes if they are here at once."""
        with self._lock:
            if (page := self._pages.get(key)) is None:
                return None
            self._policy.use(key)
            self._hits += 1
        self._owe(page.seconds)
        return page.content

    def get(
        self, key: Hashable, load: Callable[[], bytes], *, needed: int = 1, alone: bool = False
    ) -> bytes:
        """Return a page's bytes, calling `load` unless they are here.

        Threads that want the same page at the same time wait for one of them to load it, and get
        its result or its exception. A load may ask for other pages.

        Args:
            key: of the page.
            load: makes it.
            needed: by how many extents and chunks.
            alone: keep it though it is larger than the cache, by itself, until another comes.
        """
        if (content := self.peek(key)) is not None:
            return content
        return self._flights.do(key, lambda: self._load(key, load, needed, alone=alone))

    def _load(self, key: Hashable, load: Callable[[], bytes], needed: int, *, alone: bool) -> bytes:
        content, seconds = self._timed(load)
        with self._lock:
            self._misses += 1
            if key not in self._pages and (alone or len(content) <= self._capacity):
                self._keep(key, _Page(content, seconds), needed)
        return content

    def _keep(self, key: Hashable, page: _Page, needed: int) -> None:
        self._size += len(page.content)
        # Before it is added, or a policy could choose it.
        while self._size > self._capacity and self._pages:
            self._size -= len(self._pages.pop(self._policy.evict()).content)
        self._pages[key] = page
        self._policy.add(key, Worth(len(page.content), page.seconds, needed))

    # A page that is made of others costs what they do, whether they were here this time or not.

    def _timed(self, load: Callable[[], bytes]) -> tuple[bytes, float]:
        outer = getattr(self._loading, "owed", None)
        self._loading.owed = 0.0
        began = self._clock()
        try:
            content = load()
            owed: float = self._loading.owed
        finally:
            self._loading.owed = outer
        self._owe(owed)
        return content, self._clock() - began + owed

    def _owe(self, seconds: float) -> None:
        owed = getattr(self._loading, "owed", None)
        if owed is not None:
            self._loading.owed = owed + seconds

    def forget(self, key: Hashable) -> None:
        with self._lock:
            if (page := self._pages.pop(key, None)) is not None:
                self._policy.drop(key)
                self._size -= len(page.content)

    def statistics(self) -> CacheStatistics:
        with self._lock:
            return CacheStatistics(self._hits, self._misses, self._size, self._capacity)
