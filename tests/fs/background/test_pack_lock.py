"""The lock on packs: one job appends at a time, and pinned packs are not deleted."""

from contextlib import AbstractAsyncContextManager

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from modelfs.fs.background.pack_lock import PackLock
from modelfs.jobs.gc.collector import Collector
from tests.support.served_store import OTHER, Held, Served, until
from tests.support.stores import CHUNK, noise


async def test_held_packs_are_not_collected(served: Served) -> None:
    """Pinned packs are not deleted; ingest and commits go on."""
    inode = await served.chunked(b"f", noise(40 * CHUNK))
    await served.set(inode, size=CHUNK)
    await served.background.ingest.sync()
    packs = served.store.packs.numbers()
    async with trio.open_nursery() as nursery:
        async with served.background.pack_lock.pinned(), served.background.pack_lock.pinned():
            nursery.start_soon(served.background.gc.collect)
            await wait_all_tasks_blocked(0.01)
            other = await served.chunked(b"g", OTHER)
            assert packs <= served.store.packs.numbers()
        await until(lambda: not packs & served.store.packs.numbers())
    assert await served.content(other) == OTHER
    assert await served.content(inode) == noise(40 * CHUNK)[:CHUNK]


async def test_hold_waits_for_a_collection(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection that is under way ends before packs are pinned."""
    inode = await served.chunked(b"f", noise(40 * CHUNK))
    await served.set(inode, size=CHUNK)
    await served.background.ingest.sync()
    copy = Held(Collector.copy)
    monkeypatch.setattr(Collector, "copy", copy)
    held: list[bool] = []

    async def hold() -> None:
        async with served.background.pack_lock.pinned():
            held.append(True)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.background.gc.collect)
        await copy.reached.wait()
        nursery.start_soon(hold)
        await wait_all_tasks_blocked()
        assert held == []
        copy.let_go()
    assert held == [True]


class Log:
    """Tasks that hold a lock on packs for a while, and the order in which they got it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.lock = PackLock()
        self.got: list[str] = []
        self._nursery = nursery
        self._ends: dict[str, trio.Event] = {}

    async def start(self, name: str, held: AbstractAsyncContextManager[None]) -> None:
        """Begin a task, and wait until it holds its lock or waits for it."""
        self._ends[name] = trio.Event()

        async def hold() -> None:
            async with held:
                self.got.append(name)
                await self._ends[name].wait()

        self._nursery.start_soon(hold)
        await wait_all_tasks_blocked()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await wait_all_tasks_blocked()


@pytest.fixture
def log(nursery: trio.Nursery) -> Log:
    return Log(nursery)


async def test_one_job_appends_at_a_time(log: Log) -> None:
    """Jobs that append get the lock one after the other, in the order in which they came."""
    await log.start("first", log.lock.append())
    await log.start("second", log.lock.exclusive())
    await log.start("third", log.lock.append())
    assert log.got == ["first"]
    await log.end("first")
    assert log.got == ["first", "second"]
    await log.end("second")
    assert log.got == ["first", "second", "third"]
    await log.end("third")


async def test_who_deletes_waits_without_the_lock(log: Log) -> None:
    """While packs are pinned, jobs that append go on, and one that deletes comes after all pins."""
    await log.start("pin", log.lock.pinned())
    await log.start("gc", log.lock.exclusive())
    await log.start("other pin", log.lock.pinned())
    await log.start("ingest", log.lock.append())
    assert log.got == ["pin", "other pin", "ingest"]
    await log.end("ingest")
    await log.end("pin")
    assert "gc" not in log.got
    await log.end("other pin")
    assert log.got[-1] == "gc"
    await log.end("gc")


async def test_who_deletes_at_once_or_not_at_all_never_waits_for_pins(log: Log) -> None:
    """While packs are pinned a job gets no right to delete; it still waits for jobs that append."""
    granted: list[bool] = []

    async def ask() -> None:
        async with log.lock.unless_pinned() as is_exclusive:
            granted.append(is_exclusive)

    await log.start("ingest", log.lock.append())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        assert granted == []
        await log.end("ingest")
    await log.start("pin", log.lock.pinned())
    await ask()
    await log.end("pin")
    assert granted == [True, False]


async def test_a_pin_waits_for_a_job_that_deletes_and_for_one_that_appends(log: Log) -> None:
    """Packs are pinned between two jobs, never in the middle of one."""
    for job in (log.lock.exclusive, log.lock.append):
        await log.start("job", job())
        await log.start("pin", log.lock.pinned())
        assert log.got[-1] == "job"
        await log.end("job")
        assert log.got[-1] == "pin"
        await log.end("pin")


async def test_a_cancelled_waiter_leaves_the_lock_to_others(log: Log) -> None:
    """A job that is cancelled while it waits, or while it holds the lock, blocks no other."""
    await log.start("pin", log.lock.pinned())
    with trio.CancelScope() as scope:
        async with log.lock.append():
            scope.cancel()
            await trio.lowlevel.checkpoint()
    with trio.move_on_after(0.01):
        async with log.lock.exclusive():
            raise AssertionError("packs are pinned")
    await log.start("ingest", log.lock.append())
    assert log.got[-1] == "ingest"
    await log.end("ingest")
    await log.start("gc", log.lock.exclusive())
    await log.end("pin")
    assert log.got[-1] == "gc"
    await log.end("gc")


async def test_a_pin_ends_with_an_error_of_its_reader(log: Log) -> None:
    """A reader that fails unpins, and a job that waits goes on."""

    async def reader() -> None:
        async with log.lock.pinned():
            await log.start("gc", log.lock.exclusive())
            raise KeyError

    with pytest.raises(KeyError):
        await reader()
    await wait_all_tasks_blocked()
    assert log.got == ["gc"]
    await log.end("gc")


async def test_work_until_packs_are_pinned(log: Log) -> None:
    """The block is cancelled when packs are pinned, and at once if they are."""
    with log.lock.until_pinned():
        await log.start("pin", log.lock.pinned())
        await trio.sleep(60)
    with log.lock.until_pinned():
        await trio.sleep(60)
    await log.end("pin")
    ended = []
    with log.lock.until_pinned():
        await trio.lowlevel.checkpoint()
        ended.append("in order")
    assert ended
