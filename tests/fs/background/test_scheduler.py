"""When written data becomes durable and when it becomes chunks, in spite of all else."""

import errno
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator

import pytest
import trio
import trio.testing
from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT
from trio.testing import MockClock, wait_all_tasks_blocked

from modelfs.errors import CorruptIndex, StoreFull
from modelfs.fs.background import gc as background_gc
from modelfs.fs.background import ingest as background_ingest
from modelfs.fs.background import scheduler
from modelfs.fs.background.durability import FLUSH_SECONDS
from modelfs.fs.background.ingest import EARLY_WINDOWS, QUIET_SECONDS
from modelfs.fs.background.scheduler import COMMIT_SECONDS
from modelfs.jobs.check.fsck import check
from modelfs.jobs.gc.collector import Collector
from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.ingest.passes import Pass, Step
from modelfs.jobs.ingest.worker import Worker
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.index.tables import ROOT, InodeNumber, PackId
from modelfs.store.store import Store
from tests.support.run_jobs import collector_of
from tests.support.served_store import (
    ASKED,
    TOP,
    WRITE,
    Counting,
    Failing,
    Held,
    Served,
    cancelled_at,
)
from tests.support.stores import CHUNK, Box, content_of, noise

DATA = noise(3 * CHUNK + 5)
OTHER = noise(3 * CHUNK + 5, 1)


async def rename(served: Served, old: bytes, new: bytes) -> None:
    await served.operations.rename(TOP, FileNameT(old), TOP, FileNameT(new), FlagT(0), ASKED)


async def renamed_over(served: Served, number: int) -> InodeNumber:
    """Rename a new file over an old one, and return the new one."""
    await served.written(b"%d" % number)
    inode = await served.written(b"tmp", noise(100, number))
    await rename(served, b"tmp", b"%d" % number)
    return inode


def pack_sizes(store: Store) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in store.packs.folder.iterdir()}


def names(store: Store) -> list[bytes]:
    return [name for _, name, _ in store.namespace.listing(ROOT, 0, 1000)]


def is_chunked(served: Served, inode: InodeNumber) -> bool:
    return served.store.staging.find(inode) is None


async def until(condition: Callable[[], bool]) -> None:
    """Return when a condition holds that other tasks make true."""
    with trio.fail_after(120):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await trio.sleep(0.25)


@pytest.fixture
def applied(served: Served, monkeypatch: pytest.MonkeyPatch) -> Counting[..., None]:
    """The commits that reach LMDB."""
    counting = Counting(served.store.index.apply)
    monkeypatch.setattr(served.store.index, "apply", counting)
    return counting


@pytest.fixture
def held_commit(served: Served, monkeypatch: pytest.MonkeyPatch) -> Held[..., None]:
    """Let the first commit wait on its thread."""
    held = Held(served.store.index.apply)
    monkeypatch.setattr(served.store.index, "apply", held)
    return held


# -- commits


async def test_waiters_share_commits(
    served: Served, applied: Counting[..., None], held_commit: Held[..., None]
) -> None:
    """Any number of waiters share the commit under way and the next one."""
    async with trio.open_nursery() as nursery:
        await served.written(b"first")
        nursery.start_soon(served.background.durability.commit)
        await held_commit.reached.wait()
        for number in range(50):
            await served.written(b"%d" % number)
            nursery.start_soon(served.background.durability.commit)
        await wait_all_tasks_blocked()
        held_commit.let_go()
    assert len(applied.calls) == 2
    assert not served.store.index.dirty


async def test_a_commit_has_what_was_done_before_it(
    served: Served, box: Box, held_commit: Held[..., None]
) -> None:
    """A waiter that comes during a commit gets the next one, which has its change."""
    async with trio.open_nursery() as nursery:
        await served.written(b"first")
        nursery.start_soon(served.background.durability.commit)
        await held_commit.reached.wait()
        await served.written(b"second")
        nursery.start_soon(served.background.durability.commit)
        await wait_all_tasks_blocked()
        held_commit.let_go()
    assert names(box.crash()) == [b"first", b"second"]


async def test_nothing_to_commit(served: Served, applied: Counting[..., None]) -> None:
    """Without a change there is no commit."""
    await served.background.durability.commit()
    assert applied.calls == []


async def test_failed_commit(served: Served, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that finds the disk full loses no change, and the next one has them all."""
    inode = await served.chunked(b"f", DATA)
    old = await served.chunked(b"old", OTHER)
    apply = Failing(served.store.index.apply, StoreFull("the disk is full"))
    monkeypatch.setattr(served.store.index, "apply", apply)
    await served.operations.unlink(TOP, FileNameT(b"old"), ASKED)
    await served.set(inode, mode=0o600)
    with pytest.raises(StoreFull):
        await served.background.durability.commit()
    assert names(served.store) == [b"f"]
    assert await served.content(inode) == DATA
    assert await served.content(old) == OTHER
    await served.written(b"after")
    assert served.store.index.dirty
    await served.background.durability.commit()
    store = box.crash()
    assert names(store) == [b"f", b"after"]
    assert store.inodes.get(inode).mode & 0o777 == 0o600


async def test_files_of_a_failed_commit_are_deleted_by_the_next(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Staging files and packs stay until a commit no longer mentions them, and then go."""
    inode = await served.chunked(b"f", noise(40 * CHUNK))
    await served.set(inode, size=CHUNK)
    await served.operations.write(served.handles.open(inode, writable=False), 0, b"x")
    apply = Failing(served.store.index.apply, StoreFull("full"), 1, 2, 4)
    monkeypatch.setattr(served.store.index, "apply", apply)
    packs = served.store.packs.numbers()
    await served.background.ingest.ingest([inode], complete=True)
    staged = {path.name for path in served.store.staging.folder.iterdir()}
    for attempt in (served.background.durability.commit, served.background.gc.collect):
        with pytest.raises(StoreFull):
            await attempt()
        assert packs <= served.store.packs.numbers()
        assert staged <= {path.name for path in served.store.staging.folder.iterdir()}
    with pytest.raises(StoreFull):
        await served.background.gc.collect()
    assert list(served.store.staging.folder.iterdir()) == []
    assert packs <= served.store.packs.numbers()
    await served.background.durability.commit()
    assert not packs & served.store.packs.numbers()


async def test_waiters_of_a_failed_commit(
    served: Served, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiter behind a failed commit tries again, and gets the result of that."""
    failing = Failing(served.store.index.apply, StoreFull("full"))
    held = Held(failing)
    monkeypatch.setattr(served.store.index, "apply", held)
    outcomes: list[str] = []

    async def commit(name: str) -> None:
        try:
            await served.background.durability.commit()
            outcomes.append(f"{name} done")
        except StoreFull:
            outcomes.append(f"{name} failed")

    async with trio.open_nursery() as nursery:
        await served.written(b"first")
        nursery.start_soon(commit, "first")
        await held.reached.wait()
        await served.written(b"second")
        nursery.start_soon(commit, "second")
        await wait_all_tasks_blocked()
        held.let_go()
    assert outcomes == ["first failed", "second done"]
    assert names(box.crash()) == [b"first", b"second"]


async def test_waiter_that_came_before_a_failed_commit_was_sealed(
    served: Served, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiter that came during the barrier of a commit that fails does not return."""
    apply = Failing(served.store.index.apply, StoreFull("full"))
    monkeypatch.setattr(served.store.index, "apply", apply)
    sync = Held(served.store.staging.sync)
    monkeypatch.setattr(served.store.staging, "sync", sync)
    failed: list[bool] = []

    async def first() -> None:
        try:
            await served.background.durability.commit()
        except StoreFull:
            failed.append(True)

    await renamed_over(served, 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await sync.reached.wait()
        await served.written(b"second")
        nursery.start_soon(served.background.durability.commit)
        await wait_all_tasks_blocked()
        sync.let_go()
    assert failed == [True]
    assert apply.calls == 2
    assert names(box.crash()) == [b"0", b"second"]


# -- flushes


async def test_flush_is_voided_by_a_truncation(
    served: Served, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are cut off during a flush do not come back: the flush is repeated."""
    sync = Held(Counting(served.store.staging.sync))
    monkeypatch.setattr(served.store.staging, "sync", sync)
    inode, handle = await served.created(b"f", DATA)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.operations.fsync, handle, False)
        await sync.reached.wait()
        await served.set(inode, size=10)
        await served.operations.write(handle, 20, b"new")
        sync.let_go()
    store = box.crash()
    assert content_of(store, inode) == DATA[:10] + bytes(10) + b"new"


async def test_write_during_a_flush(
    served: Served, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes written while a file is synced are left for the next sync, and not forgotten."""
    sync = Held(served.store.staging.sync)
    monkeypatch.setattr(served.store.staging, "sync", sync)
    inode, handle = await served.created(b"f", DATA)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.operations.fsync, handle, False)
        await sync.reached.wait()
        await served.operations.write(handle, len(DATA), b"more")
        sync.let_go()
    staged = served.store.staging.find(inode)
    assert staged is not None
    assert staged.dirty
    await served.operations.fsync(handle, datasync=False)
    assert content_of(box.crash(), inode) == DATA + b"more"


async def test_file_that_goes_during_a_flush(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is deleted, forgotten and removed while it is synced stays gone."""
    sync = Held(served.store.staging.sync)
    monkeypatch.setattr(served.store.staging, "sync", sync)
    inode = await served.written(b"f", DATA)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.background.durability.flush, inode)
        await sync.reached.wait()
        await served.operations.unlink(TOP, FileNameT(b"f"), ASKED)
        await served.operations.forget([(InodeT(inode), 1)])
        await served.background.gc.collect()
        sync.let_go()
    assert served.store.inodes.find(inode) is None


# -- the barrier


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
            served.background.durability.replaced(inodes[0])
            await served.set(ROOT, mode=0o755)
            nursery.start_soon(served.background.durability.commit)
            for number in range(1, 4):
                await syncs.reach(number)
                name = b"w%d" % (number - 1)
                nursery.start_soon(rename, served, name, b"new-" + name)
                if number < 3:
                    # Like a rename that had passed just before the commit held up the others.
                    served.background.durability.replaced(inodes[number])
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


# -- ingest


async def test_sync(served: Served, box: Box) -> None:
    """After a sync all content is in chunks and durable, and the progress is complete."""
    reports: list[tuple[int, int]] = []

    async def progress(done: int, total: int) -> None:
        reports.append((done, total))

    inodes = [await served.written(b"%d" % number, noise(CHUNK, number)) for number in range(5)]
    await served.background.ingest.sync(progress)
    assert all(is_chunked(served, inode) for inode in inodes)
    assert reports[-1] == (5, 5)
    store = box.crash()
    assert [content_of(store, inode) for inode in inodes] == [noise(CHUNK, n) for n in range(5)]


async def test_sync_with_files_that_fail(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be ingested does not stop the others, and the error names it."""
    inodes = [await served.written(b"%d" % number, noise(CHUNK, number)) for number in range(4)]
    real = Worker.run

    def run(self: Worker, step: Step, writer: ChunkWriter) -> bool:
        if step.file_pass.inode in inodes[1:3]:
            raise OSError(errno.EIO, "broken")
        return real(self, step, writer)

    monkeypatch.setattr(Worker, "run", run)
    with pytest.raises(OSError, match="cannot store /1 and 1 more in chunks: broken") as caught:
        await served.background.ingest.sync()
    assert caught.value.errno == errno.EIO
    assert [is_chunked(served, inode) for inode in inodes] == [True, False, False, True]
    assert not served.store.index.dirty
    monkeypatch.undo()
    await served.background.ingest.sync()
    assert [await served.content(inode) for inode in inodes] == [noise(CHUNK, n) for n in range(4)]


async def test_write_during_ingest(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes written while a file is ingested are the newer ones, then and after the next pass."""
    run = Held(Worker.run)
    monkeypatch.setattr(Worker, "run", run)
    inode, handle = await served.created(b"f", DATA)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.background.ingest.sync)
        await run.reached.wait()
        await served.operations.write(handle, CHUNK, b"newer")
        run.let_go()
    wanted = DATA[:CHUNK] + b"newer" + DATA[CHUNK + 5 :]
    assert await served.content(inode) == wanted
    await served.operations.release(handle)
    await served.background.ingest.sync()
    assert is_chunked(served, inode)
    assert await served.content(inode) == wanted


@pytest.mark.parametrize("size", [0, 10, CHUNK + 1, 10 * CHUNK])
async def test_truncation_during_ingest(
    served: Served, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A file that is truncated while it is ingested stays truncated."""
    run = Held(Worker.run)
    monkeypatch.setattr(Worker, "run", run)
    inode = await served.written(b"f", DATA)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.background.ingest.sync)
        await run.reached.wait()
        await served.set(inode, size=size)
        run.let_go()
    wanted = DATA[:size].ljust(size, b"\0")
    assert await served.content(inode) == wanted
    await served.background.ingest.sync()
    assert await served.content(inode) == wanted


async def test_file_that_goes_during_ingest(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is deleted and removed while it is ingested stays gone."""
    run = Held(Worker.run)
    monkeypatch.setattr(Worker, "run", run)
    inode = await served.written(b"f", DATA)
    other = await served.written(b"g", OTHER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.background.ingest.sync)
        await run.reached.wait()
        await served.operations.unlink(TOP, FileNameT(b"f"), ASKED)
        await served.operations.forget([(InodeT(inode), 1)])
        nursery.start_soon(served.background.gc.remove_orphans)
        await wait_all_tasks_blocked()
        run.let_go()
    assert served.store.inodes.find(inode) is None
    assert await served.content(other) == OTHER


async def test_failed_ingest(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ingest that finds the disk full leaves everything staged, and the next one succeeds."""
    inodes = [await served.written(b"f", DATA), await served.written(b"g", OTHER)]
    flush = Failing(served.store.packs.flush, OSError(errno.ENOSPC, "full"))
    monkeypatch.setattr(served.store.packs, "flush", flush)
    before = pack_sizes(served.store)
    with pytest.raises(OSError, match="full"):
        await served.background.ingest.ingest(inodes, complete=True)
    assert pack_sizes(served.store) == before
    assert not any(is_chunked(served, inode) for inode in inodes)
    assert [await served.content(inode) for inode in inodes] == [DATA, OTHER]
    await served.background.ingest.sync()
    assert [await served.content(inode) for inode in inodes] == [DATA, OTHER]


@pytest.mark.usefixtures("small_windows")
async def test_truncation_during_an_ingest_without_a_step(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose staged bytes are cut off while its format is recognised fails no ingest."""
    inode, handle = await served.created(b"f", b"short")
    plan = Held(Worker.plan_empty)
    monkeypatch.setattr(Worker, "plan_empty", plan)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: served.background.ingest.ingest([inode], complete=False))
        await plan.reached.wait()
        await served.set(inode, size=0)
        await served.operations.fsync(handle, datasync=False)
        plan.let_go()
    assert await served.content(inode) == b""
    await served.operations.release(handle)
    await served.background.ingest.sync()


# -- garbage


async def test_collect(served: Served) -> None:
    """`gc` frees the room of deleted files, and leaves the others as they were."""
    big, small = noise(60 * CHUNK, 2), noise(5 * CHUNK, 3)
    gone = await served.chunked(b"big", big)
    kept = await served.chunked(b"small", small)
    await served.operations.unlink(TOP, FileNameT(b"big"), ASKED)
    await served.operations.forget([(InodeT(gone), 1)])
    before = served.store.disk_usage()
    found = await served.background.gc.collect()
    assert found.dead_bytes == len(big)
    assert before - served.store.disk_usage() >= len(big) // 2
    assert await served.content(kept) == small
    again = await served.background.gc.collect()
    assert (again.dead_chunks, again.packs) == (0, 0)


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
    copy = Held(Collector.copy_live)
    monkeypatch.setattr(Collector, "copy_live", copy)
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


# -- back-pressure


async def test_creating_waits_for_deletes(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A create that waits goes on after deletes, too: on a full disk nothing else helps."""
    monkeypatch.setattr(background_ingest, "PENDING_MAX", 2)
    monkeypatch.setattr(background_ingest, "THROTTLE_SECONDS", 60)
    inodes = [await served.written(b"%d" % number, b"x") for number in range(3)]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.written, b"more", b"x")
            await wait_all_tasks_blocked()
            await served.operations.unlink(TOP, FileNameT(b"0"), ASKED)
            await served.operations.forget([(InodeT(inodes[0]), 1)])
            await served.background.gc.collect()
    assert await served.looked_up(b"more") != 0


async def test_creating_waits_not_for_ever(
    served: Served, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While ingest makes no progress, creates are slowed down and go on."""
    monkeypatch.setattr(background_ingest, "PENDING_MAX", 2)
    for number in range(3):
        await served.written(b"%d" % number, b"x")
    began = trio.current_time()
    await served.written(b"more", b"x")
    assert trio.current_time() - began == pytest.approx(background_ingest.THROTTLE_SECONDS)


# -- the clock


@pytest.fixture
async def running(
    served: Served, clock: MockClock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> Served:
    """A store whose background jobs run, on a clock that jumps if the test asks for it."""
    monkeypatch.setattr(scheduler, "COLLECT_SECONDS", COMMIT_SECONDS)
    served.background.start()
    nursery.start_soon(served.background.run)
    return served


async def test_creating_waits_for_ingest(
    running: Served, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A create with too many files pending waits until ingest has done some."""
    monkeypatch.setattr(background_ingest, "PENDING_MAX", 2)
    monkeypatch.setattr(background_ingest, "THROTTLE_SECONDS", 60)
    inodes = [await running.written(b"%d" % number, b"x") for number in range(3)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.written, b"more", b"x")
        await wait_all_tasks_blocked()
        assert await running.looked_up(b"more") == 0
    assert any(is_chunked(running, inode) for inode in inodes)
    assert await running.looked_up(b"more") != 0


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times at which passes of ingest began."""
    begun: list[float] = []
    begin = Applier.begin_pass

    def noted(self: Applier, inode: InodeNumber, *, complete: bool) -> Pass:
        begun.append(trio.current_time())
        return begin(self, inode, complete=complete)

    monkeypatch.setattr(Applier, "begin_pass", noted)
    return begun


async def test_closed_file_becomes_chunks(
    running: Served, clock: MockClock, begun: list[float]
) -> None:
    """A file is ingested after it was closed and quiet for a while, and not before."""
    inode, handle = await running.created(b"f", DATA)
    await trio.sleep(5 * QUIET_SECONDS)
    assert begun == []
    closed = trio.current_time()
    await running.operations.release(handle)
    await until(lambda: is_chunked(running, inode))
    assert begun[0] >= closed + QUIET_SECONDS
    assert await running.content(inode) == DATA


async def test_synced_file_is_ingested_once(
    running: Served, clock: MockClock, begun: list[float]
) -> None:
    """A file that a sync has ingested is not ingested again when it was quiet for a while."""
    await running.written(b"f", DATA)
    await running.background.ingest.sync()
    await trio.sleep(5 * QUIET_SECONDS)
    assert len(begun) == 1


async def test_ingested_file_is_left_out(served: Served, begun: list[float]) -> None:
    """A round that waited for another one leaves out the files that are in chunks since."""
    inode = await served.written(b"f", DATA)
    await served.background.ingest.sync()
    await served.background.ingest.ingest([inode], complete=True)
    assert len(begun) == 1


async def test_file_that_is_written_during_a_sync(
    running: Served, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is written and closed while a sync ingests it is ingested again later."""
    inode, handle = await running.created(b"f", DATA)
    work = Held(Worker.run)
    monkeypatch.setattr(Worker, "run", work)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.background.ingest.sync)
        await work.reached.wait()
        await running.operations.write(handle, 0, OTHER)
        await running.operations.release(handle)
        work.let_go()
    await until(lambda: is_chunked(running, inode))
    assert await running.content(inode) == OTHER


async def test_file_that_is_opened_again(running: Served, clock: MockClock) -> None:
    """A file that was opened for writing again is not due until its next close."""
    inode = await running.written(b"f", DATA)
    info = await running.operations.open(InodeT(inode), WRITE, ASKED)
    await trio.sleep(10 * QUIET_SECONDS)
    assert not is_chunked(running, inode)
    await running.operations.release(info.fh)
    await until(lambda: is_chunked(running, inode))


async def test_commits_come_by_themselves(running: Served, clock: MockClock) -> None:
    """A change is durable some seconds later without an fsync."""
    await running.written(b"f")
    assert running.store.index.dirty
    await trio.sleep(2 * COMMIT_SECONDS)
    assert not running.store.index.dirty


async def test_old_data_is_flushed(
    running: Served, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written data is durable in time without an fsync, while the file stays open."""
    inode, handle = await running.created(b"f", DATA)
    staged = running.store.staging.find(inode)
    assert staged is not None
    await trio.sleep(1)
    assert staged.dirty
    staged.dirty_since -= FLUSH_SECONDS  # of the real clock, which does not jump
    await until(lambda: not staged.dirty)
    await running.operations.release(handle)


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
    await running.set(inode, size=30 * CHUNK)
    await running.background.ingest.sync()
    assert collector_of(running.store).survey().dead_chunks == 30
    await until(lambda: collector_of(running.store).survey().dead_chunks == 0)
    await running.set(inode, size=29 * CHUNK)
    await running.background.ingest.sync()
    await trio.sleep(5 * scheduler.COLLECT_SECONDS)
    assert collector_of(running.store).survey().dead_chunks == 1
    assert await running.content(inode) == noise(60 * CHUNK)[: 29 * CHUNK]


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (StoreFull("full"), logging.WARNING),
        (OSError(errno.EIO, "broken"), logging.ERROR),
        (CorruptIndex("damaged"), logging.ERROR),
        (KeyError("a bug"), logging.ERROR),
    ],
)
async def test_ingest_is_tried_again(
    running: Served,
    clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    level: int,
) -> None:
    """A failed ingest is logged, and tried again a while later."""
    monkeypatch.setattr(Worker, "run", Failing(Worker.run, error, 1, 2))
    inode = await running.written(b"f", DATA)
    began = trio.current_time()
    await until(lambda: is_chunked(running, inode))
    assert trio.current_time() - began > 2 * scheduler.RETRY_SECONDS
    assert [record.levelno for record in caplog.records] == [level, level]
    caplog.clear()
    assert await running.content(inode) == DATA


async def test_bad_file_does_not_keep_others_from_ingest(
    running: Served,
    clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Files of a round with one file that always fails still get into chunks."""
    real = Applier.apply
    bad = await running.written(b"bad", DATA)

    def apply(self: Applier, step: Step) -> Iterator[None]:
        if step.file_pass.inode == bad:
            raise CorruptIndex("damaged")
        return real(self, step)

    monkeypatch.setattr(Applier, "apply", apply)
    good = [await running.written(b"%d" % number, noise(CHUNK, number)) for number in range(3)]
    await until(lambda: all(is_chunked(running, inode) for inode in good))
    assert not is_chunked(running, bad)
    assert "damaged" in caplog.text
    monkeypatch.undo()
    await until(lambda: is_chunked(running, bad))
    caplog.clear()


async def test_commit_is_tried_again(
    running: Served,
    clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A full disk ends no background job: commits go on when there is room again."""
    apply = Failing(running.store.index.apply, StoreFull("full"), 1, 2, 3)
    monkeypatch.setattr(running.store.index, "apply", apply)
    await running.written(b"f")
    await until(lambda: not running.store.index.dirty)
    assert apply.calls == 4
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    caplog.clear()


@pytest.mark.usefixtures("small_windows")
async def test_long_file_is_ingested_early(running: Served, clock: MockClock) -> None:
    """The complete windows of a long file are in chunks while it is still being written."""
    inode, handle = await running.created(b"f")
    data = noise(20 * CHUNK, 4)
    for offset in range(0, len(data), CHUNK // 2):
        await running.operations.write(handle, offset, data[offset : offset + CHUNK // 2])
        await trio.sleep(0.2)
    staged = running.store.staging.find(inode)
    assert staged is not None
    assert staged.staged_bytes <= (EARLY_WINDOWS + 4) * CHUNK
    assert await running.content(inode) == data
    await running.operations.release(handle)
    await until(lambda: is_chunked(running, inode))
    assert await running.content(inode) == data


@pytest.mark.usefixtures("small_windows")
async def test_early_ingest_of_an_unrecognised_file(
    running: Served, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose format is not recognised early is not tried again until it is closed."""
    tried: list[bool] = []

    def unrecognised(self: Worker, step: Step, writer: ChunkWriter) -> bool:
        tried.append(step.file_pass.complete)
        return real(self, step, writer) if step.file_pass.complete else False

    real = Worker.run
    monkeypatch.setattr(Worker, "run", unrecognised)
    inode, handle = await running.created(b"f")
    data = noise(20 * CHUNK, 4)
    for offset in range(0, len(data), CHUNK // 2):
        await running.operations.write(handle, offset, data[offset : offset + CHUNK // 2])
        await trio.sleep(0.2)
    assert tried == [False]
    await running.operations.release(handle)
    await until(lambda: is_chunked(running, inode))
    assert await running.content(inode) == data
    tried.clear()
    info = await running.operations.open(InodeT(inode), WRITE, ASKED)
    await running.operations.write(info.fh, 0, data[::-1])
    await trio.sleep(1)
    assert tried == [False]
    await running.operations.release(info.fh)


async def test_work_of_an_earlier_run(served: Served, box: Box, nursery: trio.Nursery) -> None:
    """Files that a killed daemon left staged or unlinked are done by the next one."""
    inode, handle = await served.created(b"f", DATA)
    orphan = await served.written(b"g", OTHER)
    await served.operations.unlink(TOP, FileNameT(b"g"), ASKED)
    await served.operations.fsync(handle, datasync=False)
    after = Served(box.crash(), nursery)
    after.background.start()
    await after.background.ingest.ingest_due()
    await after.background.gc.remove_orphans()
    assert is_chunked(after, inode)
    assert after.store.inodes.find(orphan) is None
    assert await after.content(inode) == DATA


async def test_finish(served: Served, box: Box) -> None:
    """After `finish` everything is durable, staged files included."""
    inode, _ = await served.created(b"f", DATA)
    other = await served.chunked(b"g", OTHER)
    await served.set(other, size=10)
    await served.background.finish()
    store = box.crash()
    assert content_of(store, inode) == DATA
    assert content_of(store, other) == OTHER[:10]


# -- cancellation


# More checkpoints than any of them has.
MOST_CHECKPOINTS = 100

Action = Callable[[Served, bytes], Awaitable[Callable[[], Awaitable[object]]]]


async def to_commit(served: Served, name: bytes) -> Callable[[], Awaitable[object]]:
    await served.written(name + b".old")
    await served.written(name, DATA)
    await rename(served, name, name + b".old")
    await rename(served, name + b".old", name)
    return served.background.durability.commit


async def to_flush(served: Served, name: bytes) -> Callable[[], Awaitable[object]]:
    inode = await served.written(name, DATA)
    return lambda: served.background.durability.flush(inode)


async def to_sync(served: Served, name: bytes) -> Callable[[], Awaitable[object]]:
    inode = await served.chunked(name, OTHER)
    await served.set(inode, size=0)
    await served.operations.write(_writer(served, inode), 0, DATA)
    await served.written(name + b".other", OTHER)
    return served.background.ingest.sync


async def to_ingest(served: Served, name: bytes) -> Callable[[], Awaitable[object]]:
    inodes = [await served.written(name, DATA), await served.written(name + b".other", OTHER)]
    return lambda: served.background.ingest.ingest(inodes, complete=True)


async def to_ingest_early(served: Served, name: bytes) -> Callable[[], Awaitable[object]]:
    inode = await served.written(name, DATA)
    return lambda: served.background.ingest.ingest([inode], complete=False)


async def to_collect(served: Served, name: bytes) -> Callable[[], Awaitable[object]]:
    await served.chunked(name, DATA)
    gone = await served.chunked(name + b".gone", noise(20 * CHUNK, int(name)))
    await served.operations.unlink(TOP, FileNameT(name + b".gone"), ASKED)
    await served.operations.forget([(InodeT(gone), 1)])
    return served.background.gc.collect


async def to_finish(served: Served, name: bytes) -> Callable[[], Awaitable[object]]:
    await served.written(name, DATA)
    return served.background.finish


async def to_hold(served: Served, name: bytes) -> Callable[[], Awaitable[object]]:
    await served.chunked(name, DATA)

    async def hold() -> None:
        async with served.background.pack_lock.pinned():
            await trio.lowlevel.checkpoint()

    return hold


async def to_write(served: Served, name: bytes) -> Callable[[], Awaitable[object]]:
    inode = await served.written(name, DATA)
    handle = _writer(served, inode)
    served.writer._threads_until = float("inf")  # so that it goes to a thread
    return lambda: served.operations.write(handle, 0, DATA)


async def to_fsync(served: Served, name: bytes) -> Callable[[], Awaitable[object]]:
    inode = await served.written(name, DATA)
    handle = _writer(served, inode)
    return lambda: served.operations.fsync(handle, datasync=False)


async def to_rename(served: Served, name: bytes) -> Callable[[], Awaitable[object]]:
    await served.written(name, DATA)
    await served.written(name + b".tmp", DATA)
    return lambda: rename(served, name + b".tmp", name)


def _writer(served: Served, inode: InodeNumber) -> FileHandleT:
    return served.handles.open(inode, writable=True)


ACTIONS = [
    to_commit,
    to_flush,
    to_sync,
    to_ingest,
    to_ingest_early,
    to_collect,
    to_finish,
    to_hold,
    to_write,
    to_fsync,
    to_rename,
]


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("prepare", ACTIONS, ids=lambda each: each.__name__)
async def test_cancelled_anywhere(served: Served, prepare: Action) -> None:
    """After a cancellation at any checkpoint the store is sound, and jobs go on."""
    names = [b"%d" % number for number in range(MOST_CHECKPOINTS)]
    for number, name in enumerate(names):
        work = await prepare(served, name)
        with cancelled_at(number) as scope:
            await work()
        assert check(served.store) == []
        assert await served.content(await served.looked_up(name)) == DATA
        if not scope.cancel_called:
            break
    assert 0 < number < MOST_CHECKPOINTS - 1
    await served.background.ingest.sync()
    await served.background.gc.collect()
    for name in names[: number + 1]:
        assert await served.content(await served.looked_up(name)) == DATA


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("prepare", [to_commit, to_sync, to_collect], ids=lambda p: p.__name__)
async def test_crash_after_a_cancellation(box: Box, nursery: trio.Nursery, prepare: Action) -> None:
    """A crash right after a cancellation at any checkpoint leaves a sound store."""
    for number in range(MOST_CHECKPOINTS):
        served = Served(box.store, nursery)
        work = await prepare(served, b"%d" % number)
        with cancelled_at(number) as scope:
            await work()
        box.crash()
        if not scope.cancel_called:
            break
    assert 0 < number < MOST_CHECKPOINTS - 1
