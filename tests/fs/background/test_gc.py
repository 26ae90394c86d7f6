"""Garbage collection beside the requests."""

import errno

import pytest
import trio
import trio.testing
from pyfuse3 import FileNameT, InodeT
from trio.testing import MockClock

from modelfs.errors import CorruptIndex, StoreFull
from modelfs.fs.background import gc as background_gc
from modelfs.fs.background import scheduler
from modelfs.jobs.gc.collector import LIVE_MIN_SMALL, Garbage
from modelfs.store.index.tables import InodeNumber, PackId
from tests.support.optimized_models import real
from tests.support.run_jobs import collector_of, optimize
from tests.support.served_store import ASKED, DATA, TOP, Counting, Failing, Served, until
from tests.support.stores import CHUNK, noise, pack_sizes


async def test_collect(served: Served) -> None:
    """`gc` frees the room of deleted files, and leaves the others as they were."""
    big, small = noise(60 * CHUNK, 2), noise(5 * CHUNK, 3)
    gone = await served.chunked(b"big", big)
    kept = await served.chunked(b"small", small)
    await served.operations.unlink(TOP, FileNameT(b"big"), ASKED)
    await served.operations.forget([(InodeT(gone), 1)])
    before = served.store.inventory.disk_usage()
    found = await served.background.gc.collect()
    assert found.dead_bytes == len(big)
    assert before - served.store.inventory.disk_usage() >= len(big) // 2
    assert await served.content(kept) == small
    again = await served.background.gc.collect()
    assert (again.dead_chunks, again.packs) == (0, 0)


@pytest.fixture
async def held(served: Served) -> Served:
    """A store in which a model derives from one that was removed."""
    for name in ("base", "finetune"):
        await served.chunked(name.encode(), real(f"{name}.safetensors"))
        optimize(served.store)
    gone = await served.looked_up(b"base")
    await served.operations.unlink(TOP, FileNameT(b"base"), ASKED)
    await served.operations.forget([(InodeT(gone), 2)])
    await served.background.gc.remove_orphans()
    assert served.store.inventory.statistics(0).base_only_chunks > 0
    return served


async def test_bases_of_removed_files_are_garbage(held: Served) -> None:
    """Gc frees chunks that only derived ones need; it shows them before, and what was freed."""
    shown = await held.background.gc.survey()
    before = held.store.inventory.disk_usage()
    found = await held.background.gc.collect(LIVE_MIN_SMALL)
    freed = before - held.store.inventory.disk_usage()
    assert found.base_only_chunks == shown.base_only_chunks > 0
    assert held.store.inventory.statistics(0).base_only_chunks == 0
    assert found.freed_bytes == pytest.approx(freed, rel=0.05)
    assert shown.freed_bytes == pytest.approx(freed, rel=0.5)
    inode = await held.looked_up(b"finetune")
    assert await held.content(inode) == real("finetune.safetensors")


async def test_garbage_is_free_room(held: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """df(1) shows garbage as free, that of bases too, since a writer gets it."""
    monkeypatch.setattr(background_gc, "SURVEY_SECONDS", -1.0)
    shown = await held.operations.statfs(ASKED)
    garbage = await held.background.gc.shown_bytes()
    assert garbage > 100_000
    room = held.store.space.room()
    assert shown.f_bavail * shown.f_frsize == pytest.approx(room.free + garbage, abs=1 << 20)


async def test_freed_garbage_does_not_count_twice(held: Served) -> None:
    """Right after a collection, df(1) no longer shows its garbage beside the room on the disk."""
    assert await held.background.gc.shown_bytes() > 100_000
    await held.background.gc.collect(LIVE_MIN_SMALL)
    assert await held.background.gc.shown_bytes() < 10_000


async def test_a_survey_beside_a_collection(held: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A survey beside which packs change is repeated, and only once; any other one is kept."""
    gc, reclaimer = held.background.gc, held.store.reclaimer
    survey = Counting(gc._collector.survey)
    monkeypatch.setattr(background_gc, "SURVEY_SECONDS", 1e9)

    def survey_and_change(live_min: float) -> Garbage:
        reclaimer.version += 1
        return survey(live_min)

    with monkeypatch.context() as patch:
        patch.setattr(gc._collector, "survey", survey_and_change)
        assert await gc.shown_bytes() > 100_000
        assert len(survey.calls) == 2
        patch.setattr(gc._collector, "survey", survey)
        for _ in range(3):
            await gc.shown_bytes()
        assert len(survey.calls) == 3


async def test_room_of_a_small_file_comes_back(
    running: Served, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of a pack is worth a rewrite while no program uses the store, and waits otherwise."""
    monkeypatch.setattr(background_gc, "GARBAGE_MIN", 2 * CHUNK)
    inode = await running.chunked(b"f", noise(60 * CHUNK))
    await running.set(inode, size=50 * CHUNK)
    await running.background.ingest.sync()
    await trio.sleep(3 * scheduler.COLLECT_SECONDS)
    assert collector_of(running.store).survey().dead_chunks == 10
    monkeypatch.setattr(background_gc, "IDLE_SECONDS", -1.0)
    await until(lambda: collector_of(running.store).survey().dead_chunks == 0)
    await until(lambda: running.store.packs.numbers() == {PackId(2)})
    assert await running.content(inode) == noise(60 * CHUNK)[: 50 * CHUNK]


async def test_failed_collect(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewrite that finds the disk full leaves the packs as they were; the next succeeds."""
    inode = await served.chunked(b"f", noise(40 * CHUNK))
    await served.set(inode, size=CHUNK)
    await served.background.ingest.sync()
    before = pack_sizes(served.store)
    flush = Failing(served.store.packs.flush, OSError(errno.ENOSPC, "full"))
    monkeypatch.setattr(served.store.packs, "flush", flush)
    with pytest.raises(OSError, match="full"):
        await served.background.gc.collect()
    assert pack_sizes(served.store) == before
    await served.background.gc.collect()
    assert not before.keys() & pack_sizes(served.store).keys()
    assert await served.content(inode) == noise(40 * CHUNK)[:CHUNK]


async def test_short_disk_is_collected_at_once(
    running: Served, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While room is short, small amounts of garbage are collected, if that is possible."""
    monkeypatch.setattr(background_gc, "SHORT_GARBAGE_MIN", 5 * CHUNK)
    inode = await running.chunked(b"f", noise(60 * CHUNK))
    await running.set(inode, size=50 * CHUNK)
    await running.background.ingest.sync()
    await trio.sleep(5 * scheduler.SHORT_SECONDS)
    assert collector_of(running.store).survey().dead_chunks == 10
    monkeypatch.setattr(background_gc, "SHORT_PART", 1.0)
    monkeypatch.setattr(background_gc, "SHORT_BYTES", 1 << 60)
    await until(lambda: collector_of(running.store).survey().dead_chunks == 0)
    await until(lambda: running.store.packs.numbers() == {PackId(2)})
    await trio.sleep(5 * scheduler.SHORT_SECONDS)
    assert running.store.packs.numbers() == {PackId(2)}
    assert await running.content(inode) == noise(60 * CHUNK)[: 50 * CHUNK]


async def test_deleted_file_is_removed(running: Served, clock: MockClock) -> None:
    """An inode without names and lookups is removed in the background."""
    inode = await running.chunked(b"f", DATA)
    await running.operations.unlink(TOP, FileNameT(b"f"), ASKED)
    await running.operations.forget([(InodeT(inode), 1)])
    await until(lambda: running.store.inodes.find(inode) is None)


async def test_much_garbage_is_collected(
    running: Served, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage is collected in the background when there is enough of it."""
    monkeypatch.setattr(background_gc, "GARBAGE_MIN", 20 * CHUNK)
    inode = await running.chunked(b"f", noise(60 * CHUNK))
    await running.set(inode, size=25 * CHUNK)
    await running.background.ingest.sync()
    assert collector_of(running.store).survey().dead_chunks == 35
    await until(lambda: collector_of(running.store).survey().dead_chunks == 0)
    await running.set(inode, size=24 * CHUNK)
    await running.background.ingest.sync()
    await trio.sleep(5 * scheduler.COLLECT_SECONDS)
    assert collector_of(running.store).survey().dead_chunks == 1
    assert await running.content(inode) == noise(60 * CHUNK)[: 24 * CHUNK]


async def test_packs_that_are_pinned_lose_no_deleted_file(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection that ends since a reader pins the packs leaves the deleted files queued."""
    monkeypatch.setattr(background_gc, "GARBAGE_MIN", 0)
    gone = await served.chunked(b"f", DATA)
    await served.operations.unlink(TOP, FileNameT(b"f"), ASKED)
    await served.operations.forget([(InodeT(gone), 1)])
    pack_lock, gc = served.background.pack_lock, served.background.gc

    async def pin() -> None:
        async with pack_lock.pinned():
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as jobs, pack_lock.append():
        jobs.start_soon(pin)
        await trio.testing.wait_all_tasks_blocked()
        jobs.start_soon(gc.collect_for_room, lambda: False)
        await until(lambda: pack_lock._lock.statistics().tasks_waiting == 2)
    assert served.store.inodes.find(gone) is not None
    await gc.remove_orphans()
    assert served.store.inodes.find(gone) is None


@pytest.fixture
async def removed(served: Served) -> list[InodeNumber]:
    """Two files that were removed, and are queued."""
    inodes = [await served.chunked(name, DATA) for name in (b"f", b"g")]
    for inode, name in zip(inodes, (b"f", b"g"), strict=True):
        await served.operations.unlink(TOP, FileNameT(name), ASKED)
        await served.operations.forget([(InodeT(inode), 1)])
    return inodes


async def test_a_removal_without_room_is_tried_again(
    served: Served, monkeypatch: pytest.MonkeyPatch, removed: list[InodeNumber]
) -> None:
    """The file stays in the queue, with those behind it."""
    orphans = served.store.orphans
    with monkeypatch.context() as patch:
        patch.setattr(orphans, "remove", Failing(orphans.remove, StoreFull("full")))
        with pytest.raises(StoreFull):
            await served.background.gc.remove_orphans()
    assert orphans.inodes() == removed
    await served.background.gc.remove_orphans()
    assert orphans.inodes() == []


async def test_a_removal_that_meets_damage_holds_up_no_other(
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    removed: list[InodeNumber],
) -> None:
    """The file is named in the log, and waits for the next mount."""
    orphans = served.store.orphans
    with monkeypatch.context() as patch:
        patch.setattr(orphans, "remove", Failing(orphans.remove, CorruptIndex("row")))
        await served.background.gc.remove_orphans()
    assert f"deleted file (inode {removed[0]}), left to the next mount: row" in caplog.text
    caplog.clear()
    await served.background.gc.remove_orphans()
    assert orphans.inodes() == removed[:1]
