"""When written data becomes chunks, in spite of all else."""

import errno
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from pyfuse3 import FileNameT, InodeT
from trio.testing import MockClock, wait_all_tasks_blocked

from modelfs.errors import CorruptIndex
from modelfs.fs.background import ingest as background_ingest
from modelfs.fs.background.ingest import EARLY_WINDOWS, QUIET_SECONDS
from modelfs.jobs.ingest.apply import Applier
from modelfs.jobs.ingest.passes import Pass, Region
from modelfs.jobs.ingest.worker import Worker
from modelfs.store.chunks.writer import ChunkWriter
from modelfs.store.index.tables import InodeNumber
from tests.support.served_store import (
    ASKED,
    DATA,
    OTHER,
    TOP,
    WRITE,
    Failing,
    Held,
    Served,
    is_chunked,
    until,
)
from tests.support.stores import CHUNK, Box, content_of, noise, pack_sizes


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
    real = Worker.ingest_region

    def run(self: Worker, step: Region, writer: ChunkWriter) -> bool:
        if step.file_pass.inode in inodes[1:3]:
            raise OSError(errno.EIO, "broken")
        return real(self, step, writer)

    monkeypatch.setattr(Worker, "ingest_region", run)
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
    run = Held(Worker.ingest_region)
    monkeypatch.setattr(Worker, "ingest_region", run)
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
    run = Held(Worker.ingest_region)
    monkeypatch.setattr(Worker, "ingest_region", run)
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
    run = Held(Worker.ingest_region)
    monkeypatch.setattr(Worker, "ingest_region", run)
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

    def noted(self: Applier, inode: InodeNumber, *, complete: bool, urgent: bool) -> Pass:
        begun.append(trio.current_time())
        return begin(self, inode, complete=complete, urgent=urgent)

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
    work = Held(Worker.ingest_region)
    monkeypatch.setattr(Worker, "ingest_region", work)
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


async def test_bad_file_does_not_keep_others_from_ingest(
    running: Served,
    clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Files of a round with one file that always fails still get into chunks."""
    real = Applier.apply
    bad = await running.written(b"bad", DATA)

    def apply(self: Applier, step: Region) -> Iterator[None]:
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
async def test_a_fast_writer_does_not_keep_due_files_waiting(
    served: Served, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two early passes over a file that grows during each, due files are ingested."""
    _, handle = await served.created(b"fast")
    size, early = 0, 0

    async def grow() -> None:
        nonlocal size
        for _ in range(2 * (EARLY_WINDOWS + 1)):
            await served.operations.write(handle, size, noise(CHUNK // 2, size))
            size += CHUNK // 2

    def grown(self: Worker, region: Region, writer: ChunkWriter) -> bool:
        nonlocal early
        if not region.file_pass.complete and early < 100:
            early += 1
            trio.from_thread.run(grow)
        return real(self, region, writer)

    real = Worker.ingest_region
    monkeypatch.setattr(Worker, "ingest_region", grown)
    await grow()
    due = await served.written(b"due", DATA)
    await trio.sleep(2 * QUIET_SECONDS)
    passes = 0
    while not is_chunked(served, due) or not early:
        await served.background.ingest.ingest_due()
        passes += 1
    assert (passes, early < 100) == (1, True)
    due = await served.written(b"due later", OTHER)
    await trio.sleep(2 * QUIET_SECONDS)
    await served.background.ingest.ingest_due()
    assert is_chunked(served, due)


@pytest.mark.usefixtures("small_windows")
async def test_early_ingest_of_an_unrecognised_file(
    running: Served, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose format is not recognised early is not tried again until it is closed."""
    tried: list[bool] = []

    def unrecognised(self: Worker, step: Region, writer: ChunkWriter) -> bool:
        tried.append(step.file_pass.complete)
        return real(self, step, writer) if step.file_pass.complete else False

    real = Worker.ingest_region
    monkeypatch.setattr(Worker, "ingest_region", unrecognised)
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
