"""The optimizer of a mounted store: for who waits, by itself, interrupted, and beside readers."""

import threading
from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from modelfs.errors import StoreFull
from modelfs.fs.background import optimize as optimizing
from modelfs.jobs.optimize.backlog import Backlog, OptimizeStatus
from modelfs.jobs.optimize.batch import Batch, BatchResult
from modelfs.jobs.optimize.worker import RunOptions, Worker
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.index.tables import ROOT, InodeNumber, Table, number_key
from modelfs.store.store import Store
from tests.support.paths import MODELS
from tests.support.served_store import DEADLINE, Served
from tests.support.stores import content_of

BASE = (MODELS / "base.safetensors").read_bytes()
TUNED = (MODELS / "finetune.safetensors").read_bytes()


class Follower:
    """Keeps the progress that it is told."""

    def __init__(self) -> None:
        self.progress: list[tuple[int, int]] = []

    async def __call__(self, done: int, total: int) -> None:
        self.progress.append((done, total))
        await trio.lowlevel.checkpoint()


@pytest.fixture
async def family(served: Served) -> Served:
    """A store with a model and one made from it."""
    await served.chunked(b"base", BASE)
    await served.chunked(b"finetune", TUNED)
    return served


def files_left(served: Served) -> int:
    return sum(1 for _ in served.store.index.pages(Table.TO_OPTIMIZE))


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(DEADLINE):
        while not holds():  # noqa: ASYNC110 - there is nothing that tells of it
            await trio.sleep(0.01)


def check_contents(served: Served) -> None:
    for name, data in ((b"base", BASE), (b"finetune", TUNED)):
        assert content_of(served.store, served.store.namespace.lookup(ROOT, name)) == data


async def test_followed(family: Served, nursery: trio.Nursery) -> None:
    """Who waits is told the progress, and returns when all is in its smallest form."""
    nursery.start_soon(family.writeback.optimize.run)
    before = family.store.statistics(0).stored_bytes
    follower = Follower()
    await family.writeback.optimize.follow(follower)
    assert follower.progress == sorted(follower.progress)
    assert family.store.statistics(0).stored_bytes < 0.75 * before
    assert files_left(family) == 0
    check_contents(family)


async def test_followed_by_two(family: Served, nursery: trio.Nursery) -> None:
    """Two may wait for the same run."""
    nursery.start_soon(family.writeback.optimize.run)
    async with trio.open_nursery() as followers:
        followers.start_soon(family.writeback.optimize.follow, Follower())
        followers.start_soon(family.writeback.optimize.follow, Follower())
    assert files_left(family) == 0


async def test_stops_when_nobody_waits(
    family: Served, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends when who asked for it has gone; the next one does the rest."""
    monkeypatch.setattr("modelfs.jobs.optimize.backlog.BATCH_TENSORS", 1)
    nursery.start_soon(family.writeback.optimize.run)

    async def leave(done: int, total: int) -> None:
        if done:
            raise trio.BrokenResourceError

    with pytest.raises(trio.BrokenResourceError):
        await family.writeback.optimize.follow(leave)
    await until(lambda: not family.writeback.optimize.running)
    assert files_left(family) > 0
    await family.writeback.optimize.follow(Follower())
    assert files_left(family) == 0
    check_contents(family)


async def test_runs_by_itself_when_idle(
    family: Served, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody uses is optimized without being asked for; what is in use is not."""
    monkeypatch.setattr(optimizing, "LOOK_SECONDS", 0.01)
    nursery.start_soon(family.writeback.optimize.run)
    await trio.sleep(0.05)
    assert files_left(family) == 2
    monkeypatch.setattr(optimizing, "IDLE_SECONDS", 0)
    await until(lambda: not files_left(family))
    check_contents(family)


async def test_a_failure_is_told_and_ends_only_the_run(
    family: Served,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without room, who waits is told so; when there is room again, it goes on."""
    nursery.start_soon(family.writeback.optimize.run)

    def full(self: ChunkWriter) -> None:
        raise StoreFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(ChunkWriter, "finish", full)
        with pytest.raises(StoreFull):
            await family.writeback.optimize.follow(Follower())
    assert "full" in caplog.text
    caplog.clear()
    await family.writeback.optimize.follow(Follower())
    assert files_left(family) == 0
    check_contents(family)


async def test_what_cannot_be_done_is_not_tried_without_end(
    family: Served,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By itself it tries in vain once, and again when there is other work or much time went by."""
    monkeypatch.setattr(optimizing, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(optimizing, "IDLE_SECONDS", 0)
    looks = 0

    def status(self: Backlog) -> OptimizeStatus:
        nonlocal looks
        looks += 1
        return real(self)

    def full(self: ChunkWriter) -> None:
        raise StoreFull("full")

    real = Backlog.status
    monkeypatch.setattr(Backlog, "status", status)
    with monkeypatch.context() as patch:
        patch.setattr(ChunkWriter, "finish", full)
        nursery.start_soon(family.writeback.optimize.run)
        await until(lambda: looks > 20)
        assert caplog.text.count("stopped") == 1
    caplog.clear()
    monkeypatch.setattr(optimizing, "RETRY_SECONDS", 0)
    await until(lambda: not files_left(family))


async def test_a_damaged_record_ends_the_run_and_not_the_mount(
    family: Served,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A file whose inode cannot be read is not counted as left, by itself or for who asks."""
    monkeypatch.setattr(optimizing, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(optimizing, "IDLE_SECONDS", 0)
    key = number_key(family.store.namespace.lookup(ROOT, b"finetune"))
    good = family.store.index.get(Table.INODES, key)
    assert good is not None
    with family.store.index.change():
        family.store.index.put(Table.INODES, key, b"junk")
    nursery.start_soon(family.writeback.optimize.run)
    await until(lambda: not files_left(family))
    await family.writeback.optimize.follow(Follower())
    with family.store.index.change():
        family.store.index.put(Table.INODES, key, good)
    caplog.clear()


async def test_who_asks_gets_all_threads(
    family: Served, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes by itself, on one thread, makes way for one that somebody waits for."""
    monkeypatch.setattr("modelfs.jobs.optimize.backlog.BATCH_TENSORS", 1)
    monkeypatch.setattr(optimizing, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(optimizing, "IDLE_SECONDS", 0)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    asked: list[int] = []

    def worker(store: Store, options: RunOptions) -> Worker:
        asked.append(options.threads)
        return Worker(store, options)

    monkeypatch.setattr("modelfs.jobs.optimize.job.Worker", worker)
    nursery.start_soon(family.writeback.optimize.run)
    await until(lambda: bool(asked))
    await family.writeback.optimize.follow(Follower())
    await wait_all_tasks_blocked()
    assert asked == [1, 3]


async def test_reads_go_on_meanwhile(family: Served, nursery: trio.Nursery) -> None:
    """Whoever reads while chunks change their form gets what was written."""
    nursery.start_soon(family.writeback.optimize.run)
    inode = family.store.namespace.lookup(ROOT, b"finetune")
    async with trio.open_nursery() as readers:
        readers.start_soon(read_again_and_again, family, inode)
        await family.writeback.optimize.follow(Follower())
        readers.cancel_scope.cancel()


async def read_again_and_again(family: Served, inode: InodeNumber) -> None:
    while True:
        assert await family.content(inode) == TUNED
        # What is in memory is answered at once; in a daemon, waiting for requests lets others run.
        await trio.lowlevel.checkpoint()


async def test_a_file_removed_meanwhile_is_no_source(
    family: Served, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base that is removed between the work and its publishing is not derived from."""
    nursery.start_soon(family.writeback.optimize.run)
    work = Worker.work
    worked, removed = threading.Event(), threading.Event()

    def held(self: Worker, batch: Batch, writer: ChunkWriter) -> BatchResult:
        result = work(self, batch, writer)
        worked.set()
        assert removed.wait(DEADLINE)
        return result

    monkeypatch.setattr(Worker, "work", held)
    async with trio.open_nursery() as followers:
        followers.start_soon(family.writeback.optimize.follow, Follower())
        await trio.to_thread.run_sync(worked.wait, DEADLINE)
        family.store.namespace.unlink(ROOT, b"base")
        removed.set()
    inode = family.store.namespace.lookup(ROOT, b"finetune")
    assert content_of(family.store, inode) == TUNED
