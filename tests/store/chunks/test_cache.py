"""The chunk cache."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

import pytest

from modelfs.store.chunks.cache import ChunkCache
from modelfs.store.index.tables import ChunkId
from tests.support.interruptions import at_point, interrupt

ONE, TWO, THREE = ChunkId(1), ChunkId(2), ChunkId(3)


def never() -> bytes:
    raise AssertionError("loaded, though it is in the cache")


def test_a_loaded_entry_is_kept() -> None:
    """A chunk is loaded once; `peek` finds it and loads nothing."""
    cache = ChunkCache(100)
    assert cache.peek(ONE) is None
    assert cache.get(ONE, lambda: b"one") == b"one"
    assert cache.get(ONE, never) == b"one"
    assert cache.peek(ONE) == b"one"
    assert cache.statistics().hits == 2
    assert cache.statistics().misses == 1


def test_the_least_recently_used_goes_first() -> None:
    """A full cache drops the least recently used entry."""
    cache = ChunkCache(20)
    cache.get(ONE, lambda: bytes(10))
    cache.get(TWO, lambda: bytes(10))
    cache.get(ONE, never)
    cache.get(THREE, lambda: bytes(10))
    assert cache.peek(TWO) is None
    assert cache.peek(ONE) is not None
    cache.get(TWO, lambda: bytes(10))
    assert cache.peek(THREE) is None


def test_the_size_is_bounded() -> None:
    """The cache never holds more bytes than its capacity; a larger entry is not kept."""
    cache = ChunkCache(20)
    for number in range(10):
        cache.get(ChunkId(number), lambda: bytes(7))
        assert cache.statistics().bytes <= 20
    assert cache.get(ChunkId(100), lambda: bytes(21)) == bytes(21)
    assert cache.peek(ChunkId(100)) is None
    assert cache.statistics().bytes == 14


def test_forgotten_entries_are_loaded_again() -> None:
    """`forget` drops an entry and its size."""
    cache = ChunkCache(20)
    cache.get(ONE, lambda: b"one")
    cache.forget(ONE)
    cache.forget(TWO)
    assert cache.peek(ONE) is None
    assert cache.statistics().bytes == 0
    assert cache.get(ONE, lambda: b"new") == b"new"


def test_a_cleared_cache_is_empty() -> None:
    """`clear` drops all entries and their sizes, and then the cache holds as many as before."""
    cache = ChunkCache(20)
    for chunk in (ONE, TWO):
        cache.get(chunk, lambda: bytes(10))
    cache.clear()
    assert (cache.peek(ONE), cache.peek(TWO)) == (None, None)
    assert cache.statistics().bytes == 0
    for chunk in (THREE, ONE):
        cache.get(chunk, lambda: bytes(10))
    assert cache.peek(THREE) == cache.peek(ONE) == bytes(10)


class Slow:
    """A load that waits for an event."""

    def __init__(self, result: bytes | Exception) -> None:
        self.calls = 0
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.result = result

    def __call__(self) -> bytes:
        self.calls += 1
        self.begun.set()
        assert self.go_on.wait(30)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result


def test_threads_load_a_chunk_once() -> None:
    """While one thread loads a chunk, the others wait and get the same bytes."""
    cache, slow = ChunkCache(100), Slow(b"one")
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(cache.get, ONE, slow)
        assert slow.begun.wait(30)
        others = [pool.submit(cache.get, ONE, slow) for _ in range(7)]
        another = pool.submit(cache.get, TWO, lambda: b"two")
        slow.go_on.set()
        assert {future.result() for future in (first, *others)} == {b"one"}
        assert another.result() == b"two"
    assert slow.calls == 1


def test_a_failed_load_fails_all_waiting_threads() -> None:
    """All waiting threads get the error; the next one loads again."""
    cache, slow = ChunkCache(100), Slow(ValueError("damaged"))
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(cache.get, ONE, slow)
        assert slow.begun.wait(30)
        other = pool.submit(cache.get, ONE, slow)
        slow.go_on.set()
        for future in (first, other):
            with pytest.raises(ValueError, match="damaged"):
                future.result()
    assert cache.get(ONE, lambda: b"one") == b"one"


def test_a_load_may_load_another_chunk() -> None:
    """A load may load another chunk."""
    cache = ChunkCache(100)
    assert cache.get(ONE, lambda: cache.get(TWO, lambda: b"two") + b"one") == b"twoone"


def churn(cache: ChunkCache) -> None:
    """Add, use, evict and drop entries."""
    for number in (1, 2, 3, 1, 4, 2):
        cache.get(ChunkId(number), lambda: bytes(10))
    cache.forget(ChunkId(4))


@pytest.mark.parametrize("policy", ["lru", "shared"])
@pytest.mark.parametrize("act", [interrupt, None], ids=["interrupted", "called"])
def test_changes_that_are_interrupted(policy: str, act: Callable[[], None] | None) -> None:
    """After Ctrl-C, or a call of a signal handler, at any point the cache is whole."""
    for point in range(10_000):
        cache = ChunkCache(25, policy)
        with (
            suppress(KeyboardInterrupt),
            at_point(
                point, act or partial(churn, cache), "chunks/cache.py", "chunks/eviction.py"
            ) as places,
        ):
            churn(cache)
        if not places:
            break
        for number in range(10):
            assert cache.get(ChunkId(number), lambda: bytes(10)) == bytes(10), places
            held = [key for key in range(10) if cache.holds(ChunkId(key))]
            assert cache.statistics().bytes == 10 * len(held) <= 20, places
            for key in range(5):
                cache.peek(ChunkId(key))
    assert point > 200
