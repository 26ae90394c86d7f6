"""The optimizer of a mounted store: for commands, while idle, interrupted, beside readers."""

import threading
from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from modelfs.errors import CorruptIndex, StoreFull
from modelfs.fs.background import optimize as background_optimize
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.jobs.optimize.batch import Batch, BatchResult
from modelfs.jobs.optimize.worker import RunOptions, Worker
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.index.counters import OPTIMIZE_WALK
from modelfs.store.index.tables import ROOT, InodeNumber, Table, number_key
from modelfs.store.store import Store
from tests.support.paths import MODELS
from tests.support.served_store import DEADLINE, Counting, Follower, Served
from tests.support.stores import content_of

BASE = (MODELS / "base.safetensors").read_bytes()
TUNED = (MODELS / "finetune.safetensors").read_bytes()


@pytest.fixture
async def family(served: Served) -> Served:
    """A store with a model and a fine-tune of it."""
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
    """`follow` reports progress, and returns when every chunk has its smallest form."""
    nursery.start_soon(family.background.optimize.run)
    before = family.store.inventory.statistics(0).stored_bytes
    follower = Follower()
    await family.background.optimize.follow(follower)
    assert follower.progress == sorted(follower.progress)
    assert family.store.inventory.statistics(0).stored_bytes < 0.75 * before
    assert files_left(family) == 0
    check_contents(family)


async def test_followed_by_two(family: Served, nursery: trio.Nursery) -> None:
    """Two commands may wait for the same run."""
    nursery.start_soon(family.background.optimize.run)
    async with trio.open_nursery() as followers:
        followers.start_soon(family.background.optimize.follow, Follower())
        followers.start_soon(family.background.optimize.follow, Follower())
    assert files_left(family) == 0


async def test_stops_when_no_command_waits(
    family: Served, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops when its command hangs up; the next one does the rest."""
    monkeypatch.setattr("modelfs.jobs.optimize.backlog.BATCH_TENSORS", 1)
    nursery.start_soon(family.background.optimize.run)

    async def leave(done: int, total: int) -> None:
        if done:
            raise trio.BrokenResourceError

    with pytest.raises(trio.BrokenResourceError):
        await family.background.optimize.follow(leave)
    await until(lambda: not family.background.optimize.running)
    assert files_left(family) > 0
    await family.background.optimize.follow(Follower())
    assert files_left(family) == 0
    check_contents(family)


async def test_runs_when_idle(
    family: Served, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle store is optimized without a command; a store in use is not."""
    monkeypatch.setattr(background_optimize, "IDLE_CHECK_SECONDS", 0.01)
    nursery.start_soon(family.background.optimize.run)
    await trio.sleep(0.05)
    assert files_left(family) == 2
    monkeypatch.setattr(background_optimize, "IDLE_SECONDS", 0)
    await until(lambda: not files_left(family))
    check_contents(family)


async def test_a_failure_is_raised_and_ends_only_the_run(
    family: Served,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a full disk `follow` raises the error; the next run does the rest."""
    nursery.start_soon(family.background.optimize.run)

    def full(self: ChunkWriter) -> None:
        raise StoreFull("full")

    with monkeypatch.context() as patch:
        patch.setattr(ChunkWriter, "finish", full)
        with pytest.raises(StoreFull):
            await family.background.optimize.follow(Follower())
    assert "full" in caplog.text
    caplog.clear()
    await family.background.optimize.follow(Follower())
    assert files_left(family) == 0
    check_contents(family)


async def test_a_failed_idle_run_is_not_repeated_at_once(
    family: Served,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An idle run that failed is tried again when there is other work or after a long time."""
    monkeypatch.setattr(background_optimize, "IDLE_CHECK_SECONDS", 0.001)
    monkeypatch.setattr(background_optimize, "IDLE_SECONDS", 0)
    looks = 0

    def version(self: Backlog) -> tuple[int, ...]:
        nonlocal looks
        looks += 1
        return real(self)

    def full(self: ChunkWriter) -> None:
        raise StoreFull("full")

    real = Backlog.version
    monkeypatch.setattr(Backlog, "version", version)
    with monkeypatch.context() as patch:
        patch.setattr(ChunkWriter, "finish", full)
        nursery.start_soon(family.background.optimize.run)
        await until(lambda: looks > 20)
        assert caplog.text.count("stopped") == 1
    caplog.clear()
    monkeypatch.setattr(background_optimize, "UNDONE_RETRY_SECONDS", 0)
    await until(lambda: not files_left(family))


async def test_a_damaged_record_ends_the_run_and_not_the_mount(
    family: Served,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A file whose inode cannot be read ends neither an idle run nor a command's."""
    monkeypatch.setattr(background_optimize, "IDLE_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(background_optimize, "IDLE_SECONDS", 0)
    key = number_key(family.store.namespace.lookup(ROOT, b"finetune"))
    good = family.store.index.get(Table.INODES, key)
    assert good is not None
    with family.store.index.change():
        family.store.index.put(Table.INODES, key, b"junk")
    nursery.start_soon(family.background.optimize.run)
    await until(lambda: not files_left(family))
    await family.background.optimize.follow(Follower())
    with family.store.index.change():
        family.store.index.put(Table.INODES, key, good)
    caplog.clear()


async def test_a_damaged_row_of_the_backlog(
    family: Served,
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It ends the run, and not the optimizer: when the row is whole, the next run does the rest."""
    monkeypatch.setattr(background_optimize, "IDLE_CHECK_SECONDS", 0.001)
    monkeypatch.setattr(background_optimize, "IDLE_SECONDS", 0)
    optimize, index = family.background.optimize, family.store.index
    looks = Counting(optimize.backlog.version)
    monkeypatch.setattr(optimize.backlog, "version", looks)
    with index.change():
        index.put(Table.META, OPTIMIZE_WALK, b"junk")
    nursery.start_soon(optimize.run)
    await until(lambda: len(looks.calls) > 20)
    assert caplog.text.count("optimizing stopped: counter") == 1
    with pytest.raises(CorruptIndex):
        await optimize.follow(Follower())
    caplog.clear()
    with index.change():
        index.delete(Table.META, OPTIMIZE_WALK)
    await family.chunked(b"again", TUNED[::-1])
    await until(lambda: not files_left(family))
    caplog.clear()


async def test_a_command_gets_all_threads(
    family: Served, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command replaces an idle run, which has one thread, by a run with all threads."""
    monkeypatch.setattr("modelfs.jobs.optimize.backlog.BATCH_TENSORS", 1)
    monkeypatch.setattr(background_optimize, "IDLE_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(background_optimize, "IDLE_SECONDS", 0)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    asked: list[int] = []

    def worker(store: Store, options: RunOptions) -> Worker:
        asked.append(options.threads)
        return Worker(store, options)

    monkeypatch.setattr("modelfs.jobs.optimize.job.Worker", worker)
    nursery.start_soon(family.background.optimize.run)
    await until(lambda: bool(asked))
    await family.background.optimize.follow(Follower())
    await wait_all_tasks_blocked()
    assert asked == [1, 3]


async def test_reads_go_on_meanwhile(family: Served, nursery: trio.Nursery) -> None:
    """A read during a run returns the bytes that were written."""
    nursery.start_soon(family.background.optimize.run)
    inode = family.store.namespace.lookup(ROOT, b"finetune")
    async with trio.open_nursery() as readers:
        readers.start_soon(read_again_and_again, family, inode)
        await family.background.optimize.follow(Follower())
        readers.cancel_scope.cancel()


async def read_again_and_again(family: Served, inode: InodeNumber) -> None:
    while True:
        assert await family.content(inode) == TUNED
        # Reads from memory do not wait; in a daemon, waiting for requests lets other tasks run.
        await trio.lowlevel.checkpoint()


async def test_a_file_removed_meanwhile_is_no_source(
    family: Served, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk is not published as derived from a base that was removed meanwhile."""
    nursery.start_soon(family.background.optimize.run)
    work = Worker.work
    worked, removed = threading.Event(), threading.Event()

    def held(self: Worker, batch: Batch, writer: ChunkWriter) -> BatchResult:
        result = work(self, batch, writer)
        worked.set()
        assert removed.wait(DEADLINE)
        return result

    monkeypatch.setattr(Worker, "work", held)
    async with trio.open_nursery() as followers:
        followers.start_soon(family.background.optimize.follow, Follower())
        await trio.to_thread.run_sync(worked.wait, DEADLINE)
        family.store.namespace.unlink(ROOT, b"base")
        removed.set()
    inode = family.store.namespace.lookup(ROOT, b"finetune")
    assert content_of(family.store, inode) == TUNED
