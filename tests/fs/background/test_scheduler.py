"""The background jobs together: when each is due, failures, the end, and cancellation anywhere."""

import errno
import itertools
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
from pyfuse3 import FileHandleT, FileNameT, InodeT
from trio.testing import MockClock

from modelfs.errors import CorruptIndex, StoreFull
from modelfs.fs.background import borrowers, scheduler
from modelfs.fs.background import ingest as background_ingest
from modelfs.fs.background import optimize as background_optimize
from modelfs.fs.background.borrowers import Verdict, verdict_on
from modelfs.fs.background.durability import COMMIT_SECONDS, FLUSH_SECONDS
from modelfs.fs.background.ingest import EARLY_WINDOWS
from modelfs.fs.background.loans import Loans
from modelfs.jobs.check.fsck import check
from modelfs.jobs.composed.optimize import OptimizeRun
from modelfs.jobs.ingest.worker import Worker
from modelfs.jobs.optimize.backlog import Backlog
from modelfs.store.disk.space import Space
from modelfs.store.files import orphans as orphans_module
from modelfs.store.index.tables import InodeNumber
from tests.support.run_jobs import collector_of
from tests.support.served_store import (
    ASKED,
    DATA,
    OTHER,
    TOP,
    Failing,
    Served,
    cancelled_at,
    is_chunked,
    rename,
    until,
)
from tests.support.stores import CHUNK, Box, content_of, model_of, names_in, noise


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


ERRORS = (
    (StoreFull("full"), logging.WARNING),
    (OSError(errno.EIO, "broken"), logging.ERROR),
    (CorruptIndex("damaged"), logging.ERROR),
    (KeyError("a bug"), logging.ERROR),
)


@pytest.mark.parametrize(("error", "level"), ERRORS)
async def test_a_task_that_fails_begins_again(
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    nursery: trio.Nursery,
    error: Exception,
    level: int,
) -> None:
    """A failure of a task that has no end is logged, and ends neither it nor the others."""
    calls: list[float] = []

    async def task() -> None:
        calls.append(trio.current_time())
        if len(calls) < 3:
            raise error
        await trio.sleep_forever()

    nursery.start_soon(scheduler._keep_running, "task", task, 7)
    await trio.sleep(100)
    assert [b - a for a, b in itertools.pairwise(calls)] == [7, 7]
    assert [record.levelno for record in caplog.records] == [level, level]
    caplog.clear()


@pytest.mark.parametrize("step", [(Space, "measure"), (Loans, "lend"), (Backlog, "version")])
async def test_no_failed_step_ends_the_mount(
    running: Served,
    clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: tuple[type, str],
) -> None:
    """After a failure of a step that makes room, or of the optimizer, all goes on."""
    failing = Failing(getattr(*step), OSError(errno.EIO, "broken"), 1)
    monkeypatch.setattr(*step, failing)
    monkeypatch.setattr(background_optimize, "IDLE_SECONDS", -1)
    shortage = running.background.shortage
    with monkeypatch.context() as patch:
        # A request waits for rounds, which make no room.
        patch.setattr(shortage, "_refusal", lambda *_: StoreFull("full"))
        patch.setattr(shortage._rounds, "_has_room", lambda: False)
        for _ in range(3):
            with pytest.raises(StoreFull):
                await shortage.reserve(1)
            await trio.sleep(100)
    assert failing.calls > 1
    assert "failed, next attempt" in caplog.text
    inode = await running.written(b"f", DATA)
    await until(lambda: is_chunked(running, inode))
    caplog.clear()


async def test_a_loan_is_judged_on_a_thread(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To look at each chunk of a loan would keep the event loop from all requests."""
    inode = await served.chunked(b"f", DATA)
    threads: list[threading.Thread] = []

    def on_thread(*of: Any) -> Verdict:
        threads.append(threading.current_thread())
        return verdict_on(*of)

    monkeypatch.setattr(borrowers, "verdict_on", on_thread)
    loans = served.background.shortage._loans
    assert loans.lend()
    assert loans.borrow(len(DATA), (inode, 0))
    served.store.space.arrive(len(DATA))
    await loans.close()
    (thread,) = threads
    assert thread is not threading.current_thread()


@pytest.mark.parametrize(("error", "level"), ERRORS)
async def test_ingest_is_tried_again(
    running: Served,
    clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    level: int,
) -> None:
    """A failed ingest is logged, and tried again a while later."""
    monkeypatch.setattr(Worker, "ingest_region", Failing(Worker.ingest_region, error, 1, 2))
    inode = await running.written(b"f", DATA)
    began = trio.current_time()
    await until(lambda: is_chunked(running, inode))
    assert trio.current_time() - began > 2 * scheduler.RETRY_SECONDS
    assert [record.levelno for record in caplog.records] == [level, level]
    caplog.clear()
    assert await running.content(inode) == DATA


async def test_commit_is_tried_again(
    running: Served,
    clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A full disk ends no background job: commits go on when there is room again."""
    apply = Failing(running.store.index.rows.write, StoreFull("full"), 1, 2, 3)
    monkeypatch.setattr(running.store.index.rows, "write", apply)
    await running.written(b"f")
    await until(lambda: not running.store.index.dirty)
    assert apply.calls == 4
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    caplog.clear()


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


Work = Callable[[], Awaitable[object]]
Done = Callable[[], bool]
# Queues a piece of work; returns the job that does it, and whether it is done.
Queued = Callable[[Served, bytes], Awaitable[tuple[Work, Done]]]


async def queued_orphan(served: Served, name: bytes) -> tuple[Work, Done]:
    inode = await served.chunked(name, DATA)
    await served.operations.unlink(TOP, FileNameT(name), ASKED)
    await served.operations.forget([(InodeT(inode), 1)])
    return served.background.gc.remove_orphans, lambda: served.store.inodes.find(inode) is None


async def queued_orphan_for_gc(served: Served, name: bytes) -> tuple[Work, Done]:
    _, is_done = await queued_orphan(served, name)
    return served.background.gc.collect, is_done


async def queued_file(served: Served, name: bytes) -> tuple[Work, Done]:
    inode = await served.written(name, DATA)
    return served.background.ingest.ingest_due, lambda: is_chunked(served, inode)


async def queued_windows(served: Served, name: bytes) -> tuple[Work, Done]:
    inode, _ = await served.created(name, noise(8 * CHUNK, int(name)))

    def is_done() -> bool:
        staged = served.store.staging.find(inode)
        return staged is None or len(staged.windows) < EARLY_WINDOWS

    return served.background.ingest.ingest_due, is_done


async def queued_tensors(served: Served, name: bytes) -> tuple[Work, Done]:
    await served.chunked(name, model_of(noise(CHUNK, int(name))))
    backlog = Backlog(served.store)
    run = OptimizeRun(served.store, backlog, collector_of(served.store))
    driver = served.context().driver

    async def optimize() -> None:
        try:
            while await driver.run(run.advance(1)):
                pass
        finally:
            run.rest()

    return optimize, lambda: not backlog.has_work()


async def queued_deletes(served: Served, name: bytes) -> tuple[Work, Done]:
    await served.written(name, DATA)
    staging = served.store.staging
    await served.background.durability.flush_all()
    await served.background.durability.commit()
    before = names_in(staging.directory.path)
    await served.background.ingest.ingest_all()

    async def commit() -> None:
        served.store.set_in_use(in_use=True)
        await served.background.durability.commit()

    return commit, lambda: not before & names_in(staging.directory.path)


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize(
    "prepare",
    [
        queued_orphan,
        queued_orphan_for_gc,
        queued_file,
        queued_windows,
        queued_tensors,
        queued_deletes,
    ],
    ids=lambda each: each.__name__,
)
async def test_a_cancelled_part_forgets_nothing(
    served: Served, prepare: Queued, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece of work whose job is cancelled at any checkpoint is done by the part's next job."""
    monkeypatch.setattr(background_ingest, "QUIET_SECONDS", 0)
    monkeypatch.setattr(background_ingest, "ROUND_RETRY_SECONDS", 0)
    monkeypatch.setattr(orphans_module, "SLICE", 2)
    for number in range(MOST_CHECKPOINTS):
        work, is_done = await prepare(served, b"%d" % number)
        with cancelled_at(number) as scope:
            await work()
        if not scope.cancel_called:
            break
        await work()
        assert is_done(), number
    assert 0 < number < MOST_CHECKPOINTS - 1
    assert is_done()
