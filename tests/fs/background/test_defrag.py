"""Defragmentation of a mounted store, as a part of optimize."""

import errno
from functools import partial

import pytest
import trio
from pyfuse3 import FileNameT, InodeT
from trio.testing import wait_all_tasks_blocked

from modelfs.errors import StoreFull
from modelfs.jobs.defrag import order as order_module
from modelfs.jobs.defrag.job import DefragRun
from modelfs.jobs.defrag.rewrite import Defragmenter
from modelfs.jobs.gc.job import collect
from modelfs.store.disk.space import Room, Space
from modelfs.store.index.tables import PackId
from tests.support.run_jobs import collector_of
from tests.support.scattered_files import CHUNKS, FILES, content, scatter
from tests.support.served_store import ASKED, TOP, Counting, Failing, Held, Served
from tests.support.stores import CHUNK, content_of


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make portions small, and the disk large and half empty."""
    monkeypatch.setattr(Space, "room", lambda self: Room(1 << 40, 1 << 39, 1 << 20, 1 << 19))
    monkeypatch.setattr(order_module, "PORTION_BYTES", 64 * CHUNK)


class Defrag:
    """A defragmentation beside the requests, portion by portion."""

    def __init__(self, served: Served) -> None:
        collecting = partial(collect, served.store, collector_of(served.store))
        self._run = DefragRun(served.store, collecting)
        self._driver = served.context().driver

    async def copy_next(self) -> bool:
        return await self._driver.run(self._run.copy_next())


def most_runs(served: Served) -> int:
    return int(Defragmenter(served.store).measure().runs.max())


async def test_optimize_brings_files_together(served: Served, nursery: trio.Nursery) -> None:
    """`follow` waits for defragmentation, too, and reports its progress."""
    inodes = scatter(served.store)
    reports: list[tuple[int, int]] = []

    async def progress(done: int, total: int) -> None:
        reports.append((done, total))

    nursery.start_soon(served.background.optimize.run)
    await served.background.optimize.follow(progress)
    assert most_runs(served) == 1
    assert served.store.packs.numbers() == {PackId(2)}
    assert reports == sorted(reports)
    assert len({done for done, _ in reports}) > FILES * CHUNKS // 64
    assert [await served.content(each) for each in inodes] == [content(n) for n in range(FILES)]


async def test_readers_go_on_while_files_are_moved(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is read, removed and written while a portion with its chunks is copied."""
    inodes = scatter(served.store)
    held = Held(Defragmenter.copy)
    monkeypatch.setattr(Defragmenter, "copy", held)
    work = Defrag(served)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.copy_next)
        await held.reached.wait()
        assert await served.content(inodes[0]) == content(0)
        await served.operations.unlink(TOP, FileNameT(b"0"), ASKED)
        await served.operations.forget([(InodeT(inodes[0]), 1)])
        again = await served.written(b"again", content(1))
        held.let_go()
    while await work.copy_next():
        pass
    await served.background.ingest.sync()
    assert most_runs(served) == 1
    assert content_of(served.store, again) == content(1)


async def test_pinned_packs_stay(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process has the packs pinned, defragmentation waits and none is deleted."""
    scatter(served.store)
    planned, copied = Held(Defragmenter.has_room), Counting(Defragmenter.copy)
    monkeypatch.setattr(Defragmenter, "has_room", planned)
    monkeypatch.setattr(Defragmenter, "copy", copied)
    work = Defrag(served)
    async with trio.open_nursery() as nursery, served.background.pack_lock.pinned():
        nursery.start_soon(work.copy_next)
        await planned.reached.wait()
        planned.let_go()
        await wait_all_tasks_blocked(0.05)
        assert not copied.calls
    assert copied.calls


@pytest.mark.parametrize("error", [StoreFull("no room"), OSError(errno.EIO, "broken")])
async def test_a_disk_that_fails_leaves_all_as_it_was(
    served: Served, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A portion that fails stays where it was, takes no room, and is copied the next time."""
    inodes = scatter(served.store)
    monkeypatch.setattr(served.store.packs, "flush", Failing(served.store.packs.flush, error))
    work = Defrag(served)
    with pytest.raises(type(error)):
        await work.copy_next()
    assert served.store.packs.numbers() == {PackId(1)}
    assert [content_of(served.store, each) for each in inodes] == [
        content(number) for number in range(FILES)
    ]
    work = Defrag(served)
    while await work.copy_next():
        pass
    assert most_runs(served) == 1
