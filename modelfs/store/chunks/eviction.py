"""Eviction policies: which entry a full chunk cache drops next.

A policy keeps the order of the entries, not their bytes. The cache calls all its methods under its
lock. Each takes O(log n) at most, and an entry takes a few hundred bytes.

*lru* drops the least recently used entry.

*shared* weighs the age of an entry against the cost of making it again and the number of its
sharers. Zhou et al., "Serving Deep Learning Models with Deduplication from Relational Databases"
(PVLDB 15, 2022, arXiv 2201.10442), drop the page with the lowest c_w + p_reuse * c_r: the cost of
writing it back, and the probability of its reuse times the cost of reading it. This cache never
writes back, so c_w is 0. Their p_reuse comes from the request rates of the models that share a
page; a file system does not get those rates. It is estimated as in GreedyDual-Size-Frequency
(Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy", HP
Labs HPL-98-69, 1998), from the uses so far and an inflation value in place of a clock. The rates of
all sharers of an entry add up, so the estimate is multiplied by their number:

    priority = inflation + uses * sharers * seconds / size

The entry with the lowest priority is dropped, and its priority becomes the inflation. So new
entries overtake an unused one, and the more it costs to make, the later they do.

Read-ahead loads entries before their first use, and a cache full of costly entries would drop cheap
ones at once. So the newest entries are in a window that has no priorities; they leave it when newer
ones fill it (a window as in Einziger et al., "TinyLFU", ACM TOS 13, 2017).

Example. A cache of 100 bytes has a window of 25 bytes; all entries have 40, so they leave it at
once. Entry a costs 9.5 s: priority 9.5/40 = 0.2375. All others cost 1 s: b begins at 1/40 = 0.025.
c needs space, so b is dropped, the inflation is 0.025, and c begins at 0.05. If a is never used,
the tenth entry begins at 0.25, and the next one drops a.
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Protocol

# One part in this many of the cache is the window: in the default cache it has room for the
# entries that are read ahead for two sequential readers.
WINDOW_PART: Final = 4


@dataclass(frozen=True, slots=True)
class EntryCost:
    """The size of a cache entry, and the cost of losing it."""

    size: int  # bytes
    seconds: float  # of computing, to make it again
    sharers: int  # extents and chunks that use it


class Policy(Protocol):
    """An order of entries. The cache adds an entry once, and uses and drops only present ones."""

    def add(self, key: Hashable, cost: EntryCost) -> None:
        """Add a new entry."""
        ...

    def use(self, key: Hashable) -> None:
        """Count a use of an entry."""
        ...

    def drop(self, key: Hashable) -> None:
        """Remove an entry that the cache forgets for another reason."""
        ...

    def evict(self) -> Hashable:
        """Choose the entry to drop next, and remove it. There is at least one."""
        ...


class Lru:
    """Drops the least recently used entry."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._order: OrderedDict[Hashable, None] = OrderedDict()

    def add(self, key: Hashable, cost: EntryCost) -> None:
        self._order[key] = None

    def use(self, key: Hashable) -> None:
        self._order.move_to_end(key)

    def drop(self, key: Hashable) -> None:
        del self._order[key]

    def evict(self) -> Hashable:
        return self._order.popitem(last=False)[0]


@dataclass(slots=True, order=True)
class _Ranked:
    rank: float  # its priority when it was pushed to the heap
    number: int  # of entries of one rank the older goes first
    key: Hashable = field(compare=False)
    size: int = field(compare=False)
    gain: float = field(compare=False)  # of priority, by each use
    uses: int = field(default=1, compare=False)
    priority: float = field(default=0.0, compare=False)


class Shared:
    """Drops the entry with the lowest priority: cheap to make, few sharers, seldom used.

    A use raises the priority of an entry without moving it in the heap, where it is then too near
    to the top. When it comes to the top, it is pushed back with its present priority, once for all
    uses since.
    """

    def __init__(self, capacity: int) -> None:
        self._entries: dict[Hashable, _Ranked] = {}
        self._heap: list[_Ranked] = []  # entries that have left the window
        self._window: OrderedDict[Hashable, _Ranked] = OrderedDict()  # the newest entries
        self._room = capacity // WINDOW_PART  # free bytes of the window
        self._inflation = 0.0
        self._added = 0

    def add(self, key: Hashable, cost: EntryCost) -> None:
        self._added += 1
        gain = max(1, cost.sharers) * cost.seconds / max(1, cost.size)
        entry = _Ranked(0.0, self._added, key, cost.size, gain, priority=self._inflation + gain)
        self._entries[key] = self._window[key] = entry
        self._room -= entry.size
        while self._room < 0:
            self._push(self._pop_window())

    def _pop_window(self) -> _Ranked:
        _, entry = self._window.popitem(last=False)
        self._room += entry.size
        return entry

    def _push(self, entry: _Ranked) -> None:
        entry.rank = entry.priority
        heapq.heappush(self._heap, entry)

    def use(self, key: Hashable) -> None:
        entry = self._entries[key]
        entry.uses += 1
        entry.priority = self._inflation + entry.uses * entry.gain

    def drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key)
        if self._window.pop(key, None) is not None:
            self._room += entry.size
        # A dropped entry stays in the heap until it comes to the top, unless there are many.
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._heap = [entry for entry in self._heap if self._entries.get(entry.key) is entry]
            heapq.heapify(self._heap)

    def evict(self) -> Hashable:
        if self._window and self._room < next(iter(self._window.values())).size:
            # The entry that needs the space will push the oldest one out of the window.
            self._push(self._pop_window())
        while self._heap:
            entry = heapq.heappop(self._heap)
            if self._entries.get(entry.key) is not entry:
                continue  # dropped before
            if entry.priority > entry.rank:
                self._push(entry)
                continue
            self._inflation = entry.priority
            del self._entries[entry.key]
            return entry.key
        entry = self._pop_window()
        del self._entries[entry.key]
        return entry.key


POLICIES: Final[dict[str, Callable[[int], Policy]]] = {"lru": Lru, "shared": Shared}
