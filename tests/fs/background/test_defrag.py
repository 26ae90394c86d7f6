"""Scattered files of a mounted store are brought together, by the optimizer."""

import errno

import pytest
import trio
from pyfuse3 import FileNameT, InodeT
from trio.testing import wait_all_tasks_blocked

from modelfs.errors import StoreFull
from modelfs.fs.background.defrag import BackgroundDefrag
from modelfs.jobs.defrag import order as packing
from modelfs.store.disk.space import Room, Space
from modelfs.store.index.tables import PackId
from tests.support.scattered_files import CHUNKS, FILES, content, scatter
from tests.support.served_store import ASKED, TOP, Counting, Failing, Held, Served
from tests.support.stores import CHUNK, content_of


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let portions be small, and the machine's disk as full as it likes."""
    monkeypatch.setattr(Space, "room", lambda self: Room(1 << 40, 1 << 39, 1 << 20, 1 << 19))
    real = packing.DefragPlan.portions
    monkeypatch.setattr(packing.DefragPlan, "portions", lambda self: real(self, 64 * CHUNK))


def packing_of(served: Served) -> BackgroundDefrag:
    writeback = served.writeback
    return BackgroundDefrag(served.store, served.workers, writeback.durability, writeback.pack_lock)


def most_runs(served: Served) -> int:
    return int(served.store.packer.survey().runs.max())


async def test_optimize_brings_files_together(served: Served, nursery: trio.Nursery) -> None:
    """Who waits for the optimizer waits for that, too, and is told how far it is."""
    inodes = scatter(served.store)
    told: list[tuple[int, int]] = []

    async def tell(done: int, total: int) -> None:
        told.append((done, total))

    nursery.start_soon(served.writeback.optimize.run)
    await served.writeback.optimize.follow(tell)
    assert most_runs(served) == 1
    assert served.store.packs.numbers() == {PackId(2)}
    assert told == sorted(told)
    assert len({done for done, _ in told}) > FILES * CHUNKS // 64
    assert [await served.content(each) for each in inodes] == [content(n) for n in range(FILES)]


async def test_readers_go_on_while_files_are_moved(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is read, removed and written while a portion with its chunks is copied."""
    inodes = scatter(served.store)
    held = Held(served.store.packer.copy)
    monkeypatch.setattr(served.store.packer, "copy", held)
    work = packing_of(served)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.advance)
        await held.reached.wait()
        assert await served.content(inodes[0]) == content(0)
        await served.operations.unlink(TOP, FileNameT(b"0"), ASKED)
        await served.operations.forget([(InodeT(inodes[0]), 1)])
        again = await served.written(b"again", content(1))
        held.let_go()
    while await work.advance():
        pass
    await served.writeback.ingest.settle()
    assert most_runs(served) == 1
    assert content_of(served.store, again) == content(1)


async def test_packs_that_somebody_holds_stay(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another process reads the packs, none is deleted: it waits."""
    scatter(served.store)
    planned, copied = Held(served.store.packer.has_room), Counting(served.store.packer.copy)
    monkeypatch.setattr(served.store.packer, "has_room", planned)
    monkeypatch.setattr(served.store.packer, "copy", copied)
    work = packing_of(served)
    async with trio.open_nursery() as nursery, served.writeback.pack_lock.pinned():
        nursery.start_soon(work.advance)
        await planned.reached.wait()
        planned.let_go()
        await wait_all_tasks_blocked(0.05)
        assert not copied.calls
    assert copied.calls


@pytest.mark.parametrize("error", [StoreFull("no room"), OSError(errno.EIO, "broken")])
async def test_a_disk_that_fails_leaves_all_as_it_was(
    served: Served, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What could not be copied is where it was, takes no room, and is copied the next time."""
    inodes = scatter(served.store)
    monkeypatch.setattr(served.store.packs, "flush", Failing(served.store.packs.flush, error))
    work = packing_of(served)
    with pytest.raises(type(error)):
        await work.advance()
    assert served.store.packs.numbers() == {PackId(1)}
    assert [content_of(served.store, each) for each in inodes] == [
        content(number) for number in range(FILES)
    ]
    work.drop()
    while await work.advance():
        pass
    assert most_runs(served) == 1
