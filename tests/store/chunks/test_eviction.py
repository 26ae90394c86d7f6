"""Eviction policies, by themselves and in a chunk cache."""

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from modelfs.store.chunks.cache import ChunkCache
from modelfs.store.chunks.eviction import POLICIES, EntryCost, Lru, Shared


class Clock:
    """A clock that only loads move on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def load(self, size: int, seconds: float) -> Callable[[], bytes]:
        def load() -> bytes:
            self.now += seconds
            return bytes(size)

        return load


@pytest.fixture
def clock() -> Clock:
    return Clock()


def kept(cache: ChunkCache, *keys: str) -> set[str]:
    return {key for key in keys if cache.peek(key) is not None}


def test_lru_drops_the_least_recently_used() -> None:
    """A use makes an entry the last to be dropped; its cost makes no difference."""
    policy = Lru(30)
    for key, needed in (("a", 1), ("b", 9), ("c", 1)):
        policy.add(key, EntryCost(10, 5.0 * needed, needed))
    policy.use("a")
    policy.drop("c")
    assert [policy.evict(), policy.evict()] == ["b", "a"]


def test_entries_with_many_sharers_stay(clock: Clock) -> None:
    """Of entries with equal cost, one with fewer sharers is dropped, even if it is newer."""
    cache = ChunkCache(20, "shared", clock)
    cache.get("of many", clock.load(10, 1), sharers=5)
    cache.get("of one", clock.load(10, 1), sharers=1)
    cache.get("new", clock.load(10, 1), sharers=1)
    assert kept(cache, "of many", "of one", "new") == {"of many", "new"}


def test_costly_entries_stay(clock: Clock) -> None:
    """Of entries that are otherwise equal, the one that takes less computing is dropped."""
    cache = ChunkCache(20, "shared", clock)
    cache.get("dear", clock.load(10, 5), sharers=2)
    cache.get("cheap", clock.load(10, 1), sharers=2)
    cache.get("new", clock.load(10, 1))
    assert kept(cache, "dear", "cheap", "new") == {"dear", "new"}


def test_often_used_entries_stay(clock: Clock) -> None:
    """Of entries that are otherwise equal, the one with fewer uses is dropped."""
    cache = ChunkCache(20, "shared", clock)
    for key in ("used", "loaded"):
        cache.get(key, clock.load(10, 1))
    assert cache.peek("used") is not None
    cache.get("new", clock.load(10, 1))
    assert kept(cache, "used", "loaded", "new") == {"used", "new"}


def test_small_entries_for_the_same_gain(clock: Clock) -> None:
    """The gain counts by byte: a large entry is dropped before a small one."""
    cache = ChunkCache(20, "shared", clock)
    cache.get("small", clock.load(5, 1))
    cache.get("large", clock.load(15, 1))
    cache.get("new", clock.load(15, 1))
    assert kept(cache, "small", "large", "new") == {"small", "new"}


def test_nothing_is_kept_for_ever(clock: Clock) -> None:
    """An unused entry is dropped in the end, however costly it was."""
    cache = ChunkCache(20, "shared", clock)
    cache.get("dear", clock.load(10, 100), sharers=10)
    for number in range(999):
        cache.get(number, clock.load(10, 1))
    assert kept(cache, "dear") == {"dear"}
    for number in range(1000, 5000):
        cache.get(number, clock.load(10, 1))
    assert kept(cache, "dear") == set()


def test_a_scan_leaves_used_entries(clock: Clock) -> None:
    """Entries that are read once do not displace entries that are read again and again."""
    kept = {}
    for policy in ("lru", "shared"):
        cache = ChunkCache(100, policy, clock)
        for _ in range(5):
            for number in range(8):
                cache.get(number, clock.load(10, 1), sharers=4)
        for number in range(100, 140):
            cache.get(number, clock.load(10, 1))
        kept[policy] = sum(cache.peek(number) is not None for number in range(8))
    assert kept == {"lru": 0, "shared": 8}


def test_read_ahead_entries_wait_for_their_use(clock: Clock) -> None:
    """A new entry stays until newer ones fill a quarter of the cache, however cheap it is."""
    cache = ChunkCache(400, "shared", clock)
    for number in range(40):
        cache.get(number, clock.load(10, 100), sharers=1 + number)
    for number in range(100, 200):
        cache.get(number, clock.load(10, 1))
        newest = range(max(100, number - 9), number + 1)
        assert all(cache.peek(key) is not None for key in newest)


def test_a_cached_source_is_part_of_the_cost(clock: Clock) -> None:
    """An entry whose source was cached costs as much as if it had not been."""
    cache = ChunkCache(30, "shared", clock)

    def derive() -> bytes:
        cache.get("source", clock.load(10, 5))
        return clock.load(10, 1)()

    cache.get("alone", clock.load(10, 3))
    cache.get("source", clock.load(10, 5))
    cache.get("derived", derive)  # 6 s, of which the cached source saves 5
    cache.get("new", clock.load(10, 1))
    assert kept(cache, "alone", "source", "derived") == {"source", "derived"}


def test_a_failed_load_adds_no_cost(clock: Clock) -> None:
    """Entries that a failed load used do not add to the cost of the next load."""
    cache = ChunkCache(30, "shared", clock)
    cache.get("source", clock.load(10, 50))

    def fail() -> bytes:
        assert cache.peek("source") is not None
        raise ValueError("damaged")

    with pytest.raises(ValueError, match="damaged"):
        cache.get("damaged", fail)
    cache.get("cheap", clock.load(10, 1))
    cache.get("dear", clock.load(10, 2))
    cache.get("new", clock.load(10, 1))
    assert kept(cache, "cheap", "dear") == {"dear"}


def test_shared_keeps_a_bounded_number_of_entries() -> None:
    """A policy's heap is bounded by the number of entries, however many come and go."""
    policy, rng = Shared(40), random.Random(1)
    there: set[int] = set()
    for number in range(5000):
        policy.add(number, EntryCost(10, rng.random(), rng.randrange(4)))
        there.add(number)
        policy.use(rng.choice(sorted(there)))
        if len(there) > 10:
            gone = rng.choice(sorted(there))
            policy.drop(gone)
            there.remove(gone)
        if number % 7 == 0:
            there -= (evicted := {policy.evict()})
            assert evicted.isdisjoint(policy._entries)
    assert len(policy._entries) == len(there)
    assert len(policy._heap) <= 2 * len(there) + 65


@pytest.mark.parametrize("policy", POLICIES)
def test_many_threads_keep_the_bound(policy: str) -> None:
    """Many threads may load, use and forget at once; the size is right at every moment."""
    cache = ChunkCache(200, policy)

    def work(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(2000):
            key = rng.randrange(60)
            size = 1 + key % 13
            if rng.random() < 0.1:
                cache.forget(key)
            assert cache.get(key, lambda size=size: bytes(size)) == bytes(size)  # type: ignore[misc]
            assert cache.statistics().bytes <= 200

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    there = [page for key in range(60) if (page := cache.peek(key)) is not None]
    assert sum(map(len, there)) == cache.statistics().bytes


@pytest.mark.parametrize("policy", POLICIES)
def test_an_entry_larger_than_the_cache_is_kept_alone(policy: str) -> None:
    """An entry loaded with `alone` displaces all others, and is dropped for the next one."""
    cache = ChunkCache(20, policy)
    cache.get("small", lambda: bytes(10))
    assert len(cache.get("large", lambda: bytes(50), alone=True)) == 50
    assert kept(cache, "small", "large") == {"large"}
    assert cache.statistics().bytes == 50
    cache.get("small", lambda: bytes(10))
    assert kept(cache, "small", "large") == {"small"}
    assert cache.statistics().bytes == 10
