"""Eviction: which page a full page cache drops next.

A policy keeps the order of pages, not their bytes. All its methods are called under the cache's
lock, take O(log n) at most, and hold a few hundred bytes for a page.

*lru* drops what was not used for longest.

*shared* weighs age against what a page would cost to make again and how many need it. Zhou et al.,
"Serving Deep Learning Models with Deduplication from Relational Databases" (PVLDB 15, 2022,
arXiv 2201.10442), drop the page with the lowest c_w + p_reuse * c_r: what writing it back costs,
and the probability of its reuse times what reading it costs. Nothing is ever written back here, so
c_w is 0. Their p_reuse comes from the request rates of the models that share a page, which nobody
tells a file system. It is estimated as GreedyDual-Size-Frequency does (Cherkasova, "Improving WWW
Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy", HP Labs HPL-98-69, 1998), from
the uses seen and an inflation value in place of a clock; and as the rates of those who share a page
add up, times their number:

    priority = inflation + uses * shared by * seconds / size

The lowest goes, and its priority is the inflation from then on. So a page that nobody uses is
overtaken by new ones, later the dearer it is to make.

Pages come before they are used, when a file is read ahead, and cheap ones would go at once from a
cache full of dear ones. So the newest are not weighed until others have come after them (a window
as in Einziger et al., "TinyLFU", ACM TOS 13, 2017).
"""

import heapq
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Protocol

# The part of the cache that the newest pages have to themselves: two sequential readers' pages of
# the default one.
WINDOW_PART: Final = 4


@dataclass(frozen=True, slots=True)
class Worth:
    """What a policy may know of a page."""

    size: int
    seconds: float  # of computing that it takes to make it again
    needed: int  # by how many extents and chunks


class Policy(Protocol):
    """An order of pages. The cache adds a page once, and uses and drops only what it has."""

    def add(self, key: Hashable, worth: Worth) -> None:
        """Take note of a new page."""
        ...

    def use(self, key: Hashable) -> None:
        """Take note that a page was asked for again."""
        ...

    def drop(self, key: Hashable) -> None:
        """Forget a page that is gone for another reason."""
        ...

    def evict(self) -> Hashable:
        """Choose the page to go, and forget it. There is one."""
        ...


class Lru:
    """The least recently used goes first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._order: OrderedDict[Hashable, None] = OrderedDict()

    def add(self, key: Hashable, worth: Worth) -> None:
        self._order[key] = None

    def use(self, key: Hashable) -> None:
        self._order.move_to_end(key)

    def drop(self, key: Hashable) -> None:
        del self._order[key]

    def evict(self) -> Hashable:
        return self._order.popitem(last=False)[0]


@dataclass(slots=True, order=True)
class _Ranked:
    rank: float  # in the heap: the priority that it had when it was put there
    number: int  # the older first
    key: Hashable = field(compare=False)
    size: int = field(compare=False)
    gain: float = field(compare=False)  # of priority with every use
    uses: int = field(default=1, compare=False)
    priority: float = field(default=0.0, compare=False)


class Shared:
    """What is cheap to make, needed by few and seldom used goes first.

    A use raises a page's priority and leaves the heap as it is, where it then stands too low. What
    comes to the top with a higher priority than its place is put back, once for all uses since.
    """

    def __init__(self, capacity: int) -> None:
        self._pages: dict[Hashable, _Ranked] = {}
        self._heap: list[_Ranked] = []  # of pages that are weighed
        self._window: OrderedDict[Hashable, _Ranked] = OrderedDict()  # of those that are too new
        self._room = capacity // WINDOW_PART  # left in the window
        self._inflation = 0.0
        self._added = 0

    def add(self, key: Hashable, worth: Worth) -> None:
        self._added += 1
        gain = max(1, worth.needed) * worth.seconds / max(1, worth.size)
        page = _Ranked(0.0, self._added, key, worth.size, gain, priority=self._inflation + gain)
        self._pages[key] = self._window[key] = page
        self._room -= page.size
        while self._room < 0:
            self._weigh(self._oldest())

    def _oldest(self) -> _Ranked:
        _, page = self._window.popitem(last=False)
        self._room += page.size
        return page

    def _weigh(self, page: _Ranked) -> None:
        page.rank = page.priority
        heapq.heappush(self._heap, page)

    def use(self, key: Hashable) -> None:
        page = self._pages[key]
        page.uses += 1
        page.priority = self._inflation + page.uses * page.gain

    def drop(self, key: Hashable) -> None:
        page = self._pages.pop(key)
        if self._window.pop(key, None) is not None:
            self._room += page.size
        # Its place in the heap stays until it comes to the top, but not the places of many.
        if len(self._heap) > 2 * len(self._pages) + 64:
            self._heap = [each for each in self._heap if self._pages.get(each.key) is each]
            heapq.heapify(self._heap)

    def evict(self) -> Hashable:
        if self._window and self._room < next(iter(self._window.values())).size:
            self._weigh(self._oldest())  # what is to come will take its place
        while self._heap:
            page = heapq.heappop(self._heap)
            if self._pages.get(page.key) is not page:
                continue  # dropped before
            if page.priority > page.rank:
                page.rank = page.priority
                heapq.heappush(self._heap, page)
                continue
            self._inflation = page.priority
            del self._pages[page.key]
            return page.key
        page = self._oldest()
        del self._pages[page.key]
        return page.key


POLICIES: Final[dict[str, Callable[[int], Policy]]] = {"lru": Lru, "shared": Shared}
