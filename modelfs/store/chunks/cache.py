"""The chunk cache: decoded chunks in memory, and transposed tensors, which are decoded whole.

An entry is keyed by its chunk, so files that share a chunk share its decoded bytes; a transposed
tensor has a key of its own. Plain chunks are not cached here, because the kernel's page cache of
their pack serves them as fast. A policy decides which entry a full cache drops (see `eviction`).

An exception such as `KeyboardInterrupt` may end a change of the cache at any point, and a signal
handler or `__del__` may call the cache in the middle of a change by its own thread. In both cases
the cache finds its state *changing*, and goes on with a new, empty one: entries can be made again.

Example. The cache has 256 MiB and is full. Two threads need chunk 7, a delta to chunk 3: one
decodes it, the other waits for the result. That takes 5 ms, because 3 is cached; decoding 3 took 15
ms. The entry of 7 gets a cost of 20 ms, since 3 may be gone when 7 is needed again. The policy
drops an entry that costs less for its size.
"""

import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from modelfs.fork_lock import fork_lock
from modelfs.store.chunks.eviction import POLICIES, EntryCost, Policy
from modelfs.store.chunks.single_flight import SingleFlight

CAPACITY: Final = 256 << 20
# When variants of a model are served together, it keeps more entries that are used again than LRU,
# and saves more decoding time, in every order and at every capacity: see tools/run bench.cache.
POLICY: Final = "shared"


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Hits and misses since the cache was made; its present size and its capacity in bytes."""

    hits: int
    misses: int
    bytes: int
    capacity: int


@dataclass(frozen=True, slots=True)
class _Entry:
    content: bytes
    seconds: float  # of computing, to make it from nothing


class _State:
    """The entries and their order. A change that was interrupted leaves it `changing`."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.entries: dict[Hashable, _Entry] = {}
        self.size = 0
        self.changing = False

    def add(self, key: Hashable, entry: _Entry, cost: EntryCost, capacity: int) -> None:
        """Add an entry if it is new, and drop others until the capacity suffices."""
        self.changing = True
        if key not in self.entries:
            # Make room before the entry is added, or the policy could choose the new one.
            self.size += cost.size
            while self.size > capacity and self.entries:
                self.size -= len(self.entries.pop(self.policy.evict()).content)
            self.entries[key] = entry
            self.policy.add(key, cost)
        self.changing = False

    def drop(self, key: Hashable) -> None:
        """Remove an entry, if it is there."""
        self.changing = True
        if (entry := self.entries.pop(key, None)) is not None:
            self.policy.drop(key)
            self.size -= len(entry.content)
        self.changing = False


class ChunkCache:
    """Bytes by key, bounded in size. Any thread.

    The cache holds no more bytes than its capacity, or one larger entry that was loaded with
    `alone`. Entries that are being loaded, or still in use after they were dropped, come on top.
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
            clock: computing time of the calling thread, in seconds: the price of a load.
        """
        self._capacity = capacity
        self._new_policy = partial(POLICIES[policy], capacity)
        self._state = _State(self._new_policy())
        self._clock = clock
        self._flights: SingleFlight[Hashable, bytes] = SingleFlight()
        self._lock = fork_lock()
        self._local = threading.local()  # `saved`: see `_timed`
        self._hits = 0
        self._misses = 0

    def holds(self, key: Hashable) -> bool:
        """Whether an entry is in the cache. Does not count as a use."""
        with self._lock:
            return key in self._intact().entries

    def _intact(self) -> _State:
        """Return the state; the caller has the lock."""
        if self._state.changing:
            self._state = _State(self._new_policy())
        return self._state

    def peek(self, key: Hashable) -> bytes | None:
        """Return an entry's bytes, None if it is not in the cache."""
        with self._lock:
            state = self._intact()
            if (entry := state.entries.get(key)) is None:
                return None
            with suppress(KeyError):  # a signal handler has just dropped it
                state.policy.use(key)
            self._hits += 1
        self._count_saved(entry.seconds)
        return entry.content

    def get(
        self, key: Hashable, load: Callable[[], bytes], *, sharers: int = 1, alone: bool = False
    ) -> bytes:
        """Return an entry's bytes, calling `load` if it is not in the cache.

        Threads that need the same entry at the same time wait for one of them to load it, and get
        its result or its exception. A load may get other entries.

        Args:
            key: of the entry.
            load: makes its bytes.
            sharers: number of extents and chunks that use the entry.
            alone: cache the entry even if it is larger than the capacity, by itself, until the next
                one is loaded.
        """
        if (content := self.peek(key)) is not None:
            return content
        return self._flights.do(key, lambda: self._load(key, load, sharers, alone=alone))

    def _load(
        self, key: Hashable, load: Callable[[], bytes], sharers: int, *, alone: bool
    ) -> bytes:
        """Load an entry, and keep it if it fits."""
        content, seconds = self._timed(load)
        size = len(content)
        with self._lock:
            self._misses += 1
            if alone or size <= self._capacity:
                cost = EntryCost(size, seconds, sharers)
                self._intact().add(key, _Entry(content, seconds), cost, self._capacity)
        return content

    def _timed(self, load: Callable[[], bytes]) -> tuple[bytes, float]:
        """Call `load`; return its result and the seconds it takes without a cache.

        Cached entries save part of the load. An entry that is made of others costs the same whether
        those were cached this time or not, so `_local.saved` sums up the saved seconds of the load
        that this thread is in.
        """
        outer = getattr(self._local, "saved", None)
        try:
            self._local.saved = 0.0
            began = self._clock()
            content = load()
            saved: float = self._local.saved
        finally:
            self._local.saved = outer
        self._count_saved(saved)
        return content, self._clock() - began + saved

    def _count_saved(self, seconds: float) -> None:
        saved = getattr(self._local, "saved", None)
        if saved is not None:  # inside a load
            self._local.saved = saved + seconds

    def forget(self, key: Hashable) -> None:
        """Remove an entry, if it is in the cache."""
        with self._lock:
            self._intact().drop(key)

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            self._state = _State(self._new_policy())

    def statistics(self) -> CacheStatistics:
        with self._lock:
            return CacheStatistics(self._hits, self._misses, self._intact().size, self._capacity)
