"""Renames over existing files: no commit has the new name without the content."""

import errno
import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing
from pyfuse3 import FileNameT, FlagT
from trio.testing import wait_all_tasks_blocked

from modelfs.store.index.tables import ROOT
from tests.support.served_store import (
    ASKED,
    DATA,
    OTHER,
    TOP,
    Failing,
    Held,
    Served,
    names,
    rename,
    renamed_over,
)
from tests.support.stores import Box, content_of, noise


async def test_rename_over_is_a_barrier(served: Served, box: Box) -> None:
    """A commit with the new name has the content under it, also without an fsync."""
    await served.chunked(b"f", DATA)
    inode = await served.written(b"f.tmp", OTHER)
    await rename(served, b"f.tmp", b"f")
    await served.background.durability.commit()
    store = box.crash()
    assert store.namespace.lookup(ROOT, b"f") == inode
    assert content_of(store, inode) == OTHER


async def test_exchange_is_a_barrier(served: Served, box: Box) -> None:
    """After an exchange, the commit has the content of both files."""
    one, two = await served.written(b"one", DATA), await served.written(b"two", OTHER)
    await served.operations.rename(TOP, FileNameT(b"one"), TOP, FileNameT(b"two"), FlagT(2), ASKED)
    await served.background.durability.commit()
    store = box.crash()
    assert (content_of(store, one), content_of(store, two)) == (DATA, OTHER)


async def test_rename_during_a_commit(
    served: Served, box: Box, held_commit: Held[..., None]
) -> None:
    """A rename during the write of a commit is in the next one, with its content."""
    await served.written(b"f", DATA)
    inode = await served.written(b"f.tmp", OTHER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.background.durability.commit)
        await held_commit.reached.wait()
        await rename(served, b"f.tmp", b"f")
        held_commit.let_go()
    await served.background.durability.commit()
    store = box.crash()
    assert names(store) == [b"f"]
    assert content_of(store, inode) == OTHER


class Syncs:
    """Stands for `Staging.sync`; each call waits for its turn."""

    def __init__(self, real: Callable[..., None]) -> None:
        self._real = real
        self._turns = threading.Semaphore(0)
        self.count = 0

    def __call__(self, *args: object) -> None:
        trio.from_thread.run_sync(self._begin)
        assert self._turns.acquire(timeout=10)
        self._real(*args)

    def _begin(self) -> None:
        self.count += 1

    async def reach(self, count: int) -> None:
        with trio.fail_after(10):
            while self.count < count:
                await wait_all_tasks_blocked(0.001)

    def let_go(self, count: int = 1) -> None:
        self._turns.release(count)


@pytest.fixture
def syncs(served: Served, monkeypatch: pytest.MonkeyPatch) -> Syncs:
    syncs = Syncs(served.store.staging.sync)
    monkeypatch.setattr(served.store.staging, "sync", syncs)
    return syncs


async def test_rename_waits_for_a_barrier(served: Served, box: Box, syncs: Syncs) -> None:
    """A commit lets renames pass during its first flush, and holds them up after that."""
    done: list[bytes] = []

    async def late_rename() -> None:
        await rename(served, b"late.tmp", b"late")
        done.append(b"late")

    await served.written(b"late")
    late = await served.written(b"late.tmp", b"late")
    inodes = [await renamed_over(served, 0)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.background.durability.commit)
        await syncs.reach(1)
        inodes.append(await renamed_over(served, 1))  # during the first flush: passes
        syncs.let_go()
        await syncs.reach(2)
        nursery.start_soon(late_rename)
        await wait_all_tasks_blocked()
        assert done == []
        syncs.let_go()
    assert done == [b"late"]
    syncs.let_go(10)
    store = box.crash()
    assert [content_of(store, inode) for inode in inodes] == [noise(100, n) for n in (0, 1)]
    assert store.namespace.lookup(ROOT, b"late") != late


async def test_no_rename_waits_for_ever(served: Served, syncs: Syncs) -> None:
    """A rename that waits for a commit goes on after it, however many flushes that needs."""
    waiting = [await served.written(b"w%d" % number, b"x") for number in range(3)]
    inodes = [await served.written(b"%d" % number, b"x") for number in range(3)]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            served.background.durability.barrier.replaced(inodes[0])
            await served.set(ROOT, mode=0o755)
            nursery.start_soon(served.background.durability.commit)
            for number in range(1, 4):
                await syncs.reach(number)
                name = b"w%d" % (number - 1)
                nursery.start_soon(rename, served, name, b"new-" + name)
                if number < 3:
                    # Like a rename that had passed just before the commit held up the others.
                    served.background.durability.barrier.replaced(inodes[number])
                await wait_all_tasks_blocked()
                syncs.let_go()
    assert [await served.looked_up(b"new-w%d" % n) for n in range(3)] == waiting
    syncs.let_go(100)


async def test_barrier_that_fails(
    served: Served, box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A renamed file that cannot be flushed is logged, and does not stop commits."""
    await served.chunked(b"f", DATA)
    inode = await served.written(b"f.tmp", OTHER)
    good = await renamed_over(served, 0)
    await rename(served, b"f.tmp", b"f")
    sync = Failing(served.store.staging.sync, OSError(errno.EIO, "broken"))
    monkeypatch.setattr(served.store.staging, "sync", sync)
    await served.background.durability.commit()
    assert "broken" in caplog.text
    assert sync.calls == 2
    await rename(served, b"f", b"g")
    await served.background.durability.commit()
    caplog.clear()
    assert await served.content(inode) == OTHER
    store = box.crash()
    assert names(store) == [b"0", b"g"]
    assert content_of(store, good) == noise(100, 0)
