"""Reading for requests: at once or on a thread, ahead or not, and what damage does to it."""

import errno
import logging
import os
import threading
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from pyfuse3 import FileHandleT

from modelfs.errors import CorruptIndex
from modelfs.fs import reading
from modelfs.fs.handles import Handle
from modelfs.fs.reading import REQUEST_MAX
from modelfs.store.content import ChunkRun, Run
from modelfs.store.tables import InodeNumber
from tests.fs.serving import DEADLINE, Counting, Failing, Held, Served, refused
from tests.store.stores import CHUNK, noise, overwrite, pack_path

DATA = noise(20 * CHUNK)
TEXT = b"".join(b"line %d of a long text\n" % number for number in range(4000))


@pytest.fixture
def no_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every read look like one of many at random places."""
    monkeypatch.setattr(reading, "NEAR", -1)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch, served: Served) -> Counting[..., None]:
    """The calls that fill a buffer on a thread."""
    fill = Counting(served.store.contents.fill)
    monkeypatch.setattr(served.store.contents, "fill", fill)
    return fill


async def reader_of(served: Served, inode: InodeNumber) -> Handle:
    return served.handles[served.handles.open(inode, writable=False)]


async def settled(served: Served) -> None:
    """Return when nothing is read ahead any more."""
    while served.workers.borrowed_tokens or served.reader._nursery.child_tasks:
        await trio.testing.wait_all_tasks_blocked(0.001)


async def test_staged_bytes_need_no_thread(served: Served, threads: Counting[..., None]) -> None:
    """Bytes in the kernel's page cache, and holes, are read at once."""
    inode = await served.written(b"f", DATA)
    await served.set(inode, size=30 * CHUNK)
    reader = await reader_of(served, inode)
    assert bytes(await served.reader.read(reader, 0, 1 << 20)) == DATA + bytes(10 * CHUNK)
    assert bytes(await served.reader.read(reader, 25 * CHUNK, 10)) == bytes(10)
    assert threads.calls == []


@pytest.mark.usefixtures("no_read_ahead")
async def test_chunks_are_verified_on_a_thread_once(
    served: Served, threads: Counting[..., None]
) -> None:
    """The first read of a plain chunk goes to a thread; those after it are served at once."""
    inode = await served.chunked(b"f", DATA)
    reader = await reader_of(served, inode)
    for _ in range(3):
        assert bytes(await served.reader.read(reader, 0, len(DATA))) == DATA
    assert len(threads.calls) == 1


@pytest.mark.usefixtures("no_read_ahead")
async def test_coded_chunks_are_decoded(served: Served) -> None:
    """What was stored smaller comes out as it was written."""
    inode = await served.chunked(b"f", TEXT)
    reader = await reader_of(served, inode)
    assert bytes(await served.reader.read(reader, 5, 50_000)) == TEXT[5:50_005]


@pytest.mark.usefixtures("no_read_ahead")
async def test_decoded_chunks_need_no_thread(served: Served, threads: Counting[..., None]) -> None:
    """Chunks are decoded on a thread; while they stay in memory, reads are served at once."""
    inode = await served.chunked(b"f", TEXT)
    reader = await reader_of(served, inode)
    for _ in range(3):
        assert bytes(await served.reader.read(reader, 5, 50_000)) == TEXT[5:50_005]
    assert len(threads.calls) == 1


@pytest.mark.parametrize(
    ("offset", "size", "length"),
    [(0, 0, 0), (0, 1, 1), (len(DATA) - 1, 10, 1), (len(DATA), 10, 0), (10**15, 10, 0)],
)
async def test_fewer_bytes_at_the_end(served: Served, offset: int, size: int, length: int) -> None:
    """A read past the end returns what there is, in chunks or staged."""
    for inode in (await served.written(b"f", DATA), await served.chunked(b"g", DATA)):
        reader = await reader_of(served, inode)
        got = bytes(await served.reader.read(reader, offset, size))
        assert got == DATA[offset : offset + length]


async def test_disk_that_would_block(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that would wait for the disk is given to a thread, that one and no other."""
    inode = await served.written(b"f", DATA)
    reader = await reader_of(served, inode)
    monkeypatch.setattr(os, "preadv", Failing(os.preadv, BlockingIOError(errno.EAGAIN, "wait")))
    assert bytes(await served.reader.read(reader, 0, len(DATA))) == DATA
    assert len(threads.calls) == 1
    assert bytes(await served.reader.read(reader, 0, len(DATA))) == DATA
    assert len(threads.calls) == 1


async def test_short_read_is_finished_on_a_thread(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When only part of the bytes is in the page cache, a thread reads them all."""
    real = os.preadv

    def short(fd: int, into: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        return real(fd, [into[0][:100]] if flags else into, offset)

    inode = await served.written(b"f", DATA)
    reader = await reader_of(served, inode)
    monkeypatch.setattr(os, "preadv", short)
    assert bytes(await served.reader.read(reader, 0, len(DATA))) == DATA
    assert len(threads.calls) == 1


async def test_file_system_that_cannot_tell(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where RWF_NOWAIT is not supported, it is tried once, and all reads go to threads."""
    inode = await served.written(b"f", DATA)
    reader = await reader_of(served, inode)
    tries = []
    real = os.preadv

    def unsupported(fd: int, into: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            tries.append(flags)
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return real(fd, into, offset)

    monkeypatch.setattr(os, "preadv", unsupported)
    for _ in range(3):
        assert bytes(await served.reader.read(reader, 0, len(DATA))) == DATA
    assert tries == [os.RWF_NOWAIT]
    assert len(threads.calls) == 3


async def test_failing_disk(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The reader is told what the disk says, the log which file; the next read may succeed."""
    inode, handle = await served.created(b"f", DATA)
    monkeypatch.setattr(os, "preadv", Failing(os.preadv, OSError(errno.EIO, "broken"), 1, 2))
    with refused(errno.EIO):
        await served.operations.read(handle, 0, 100)
    assert str(served.store.staging.folder) in caplog.text
    caplog.clear()
    assert await served.content(inode) == DATA


async def test_buffers_are_not_shared(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that are under way at the same time never write into each other's replies."""
    files = {await served.chunked(b"%d" % n, noise(CHUNK, n)): noise(CHUNK, n) for n in range(20)}
    in_use: list[int] = []
    wrong: list[InodeNumber] = []
    fill = served.store.contents.fill

    def marked(runs: list[Run], into: memoryview) -> None:
        owner = id(into.obj)
        assert owner not in in_use
        in_use.append(owner)
        fill(runs, into)
        in_use.remove(owner)

    async def check(inode: InodeNumber) -> None:
        reader = await reader_of(served, inode)
        for _ in range(5):
            # As pyfuse3 does: what is returned is copied before this task waits again.
            if bytes(await served.reader.read(reader, 0, CHUNK)) != files[inode]:
                wrong.append(inode)
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(served.store.contents, "fill", marked)
    served.reader._can_try = False  # so that every read takes a while
    async with trio.open_nursery() as nursery:
        for inode in files:
            nursery.start_soon(check, inode)
    assert wrong == []


async def test_buffers_are_reused(served: Served) -> None:
    """One reader after the other is served from two buffers, however many reads there are."""
    inode = await served.written(b"f", DATA)
    reader = await reader_of(served, inode)
    buffers = [(await served.reader.read(reader, 0, CHUNK)).obj for _ in range(10)]
    assert len({id(buffer) for buffer in buffers}) == 2


async def test_large_reads_have_their_own_buffer(served: Served) -> None:
    """A request above the usual size is served, and its buffer not kept."""
    data = noise(REQUEST_MAX + 5)
    inode = await served.written(b"f", data)
    reader = await reader_of(served, inode)
    views = [await served.reader.read(reader, 0, len(data)) for _ in range(2)]
    assert all(bytes(view) == data for view in views)
    assert views[0].obj is not views[1].obj


async def test_sequential_reader_is_read_ahead(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks behind what was read are made ready, and then read without a thread."""
    monkeypatch.setattr(reading, "NEAR", CHUNK)
    inode = await served.chunked(b"f", DATA)
    reader = await reader_of(served, inode)
    assert bytes(await served.reader.read(reader, 0, CHUNK)) == DATA[:CHUNK]
    await settled(served)
    filled = len(threads.calls)
    for offset in range(CHUNK, len(DATA), CHUNK):
        part = bytes(await served.reader.read(reader, offset, CHUNK))
        assert part == DATA[offset : offset + CHUNK]
    assert len(threads.calls) == filled == 1


async def test_two_threads_decode_ahead(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that have to be decoded are shared out between two threads, each of them to one."""
    inode = await served.chunked(b"f", TEXT)
    both = threading.Barrier(2)
    real = served.store.contents.prepare
    taken: list[ChunkRun] = []

    def prepare(run: ChunkRun) -> None:
        taken.append(run)
        if len(taken) <= 2:
            both.wait(DEADLINE)
        real(run)

    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    reader = await reader_of(served, inode)
    await served.reader.read(reader, 0, 0)
    await settled(served)
    assert not both.broken
    assert sum(run.size for run in taken) == len(TEXT)
    assert len({run.chunk for run in taken}) == len(taken)
    assert not reader.reading_ahead


async def test_random_reader_is_not_read_ahead(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read far from where the last one ended makes nothing ready but what it asked for."""
    monkeypatch.setattr(reading, "NEAR", CHUNK)
    prepare = Counting(served.store.contents.prepare)
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    inode = await served.chunked(b"f", DATA)
    reader = await reader_of(served, inode)
    for offset in (10 * CHUNK, 2 * CHUNK, 17 * CHUNK, 5 * CHUNK):
        part = bytes(await served.reader.read(reader, offset, CHUNK))
        assert part == DATA[offset : offset + CHUNK]
        await settled(served)
    assert prepare.calls == []


async def test_read_ahead_has_an_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """No chunk is made ready further ahead than that, nor twice."""
    monkeypatch.setattr(reading, "AHEAD_MAX", 6 * CHUNK)
    monkeypatch.setattr(reading, "AHEAD_STEP", 2 * CHUNK)
    prepare = Counting(served.store.contents.prepare)
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    inode = await served.chunked(b"f", DATA)
    reader = await reader_of(served, inode)
    for count in range(1, 20):
        await served.reader.read(reader, (count - 1) * CHUNK, CHUNK)
        await settled(served)
        assert len(prepare.calls) <= count + 6
    assert len({call[0] for call in prepare.calls}) == len(prepare.calls)


async def test_one_read_ahead_at_a_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """While chunks are made ready for a handle, no more are asked for on its behalf."""
    monkeypatch.setattr(reading, "AHEAD_STEP", 2 * CHUNK)
    inode = await served.chunked(b"f", DATA)
    done = Counting(served.store.contents.prepare)
    prepare = Held(done)
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    reader = await reader_of(served, inode)
    for count in range(3):
        await served.reader.read(reader, count * CHUNK, CHUNK)
        await prepare.reached.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert done.calls == []
    prepare.let_go()
    await settled(served)
    assert not reader.reading_ahead


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), CorruptIndex("damaged")])
async def test_read_ahead_fails_silently(
    served: Served, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Nobody asked for what could not be made ready, so nobody is told."""
    inode = await served.chunked(b"f", DATA)
    prepare = Failing(served.store.contents.prepare, error)
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    reader = await reader_of(served, inode)
    assert bytes(await served.reader.read(reader, 0, CHUNK)) == DATA[:CHUNK]
    await settled(served)
    assert prepare.calls == 1
    assert await served.content(inode) == DATA


async def test_bug_in_read_ahead_ends_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even a bug in read-ahead reaches the mount's nursery; its traceback is in the log."""
    inode = await served.chunked(b"f", DATA)
    prepare = Failing(served.store.contents.prepare, IndexError("a bug"))
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    reader = await reader_of(served, inode)
    assert bytes(await served.reader.read(reader, 0, CHUNK)) == DATA[:CHUNK]
    await settled(served)
    assert "a bug" in caplog.text
    caplog.clear()
    assert await served.content(inode) == DATA


async def test_damage_ahead_does_not_fail_a_read(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index that is damaged behind what is read fails those who read there only."""
    inode = await served.chunked(b"f", DATA)
    plan = served.store.contents.plan

    def damaged(inode: InodeNumber, start: int, size: int) -> list[Run]:
        if start + size > 10 * CHUNK:
            raise CorruptIndex("chunk 7 has no record")
        return plan(inode, start, size)

    monkeypatch.setattr(served.store.contents, "plan", damaged)
    reader = await reader_of(served, inode)
    assert bytes(await served.reader.read(reader, 0, CHUNK)) == DATA[:CHUNK]


async def test_damaged_chunk(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A read of a damaged chunk is EIO and logged; its neighbours are read as ever."""
    monkeypatch.setattr(reading, "NEAR", -1)
    inode = await served.chunked(b"f", DATA)
    [extent] = served.store.maps.overlapping(inode, 3 * CHUNK, 3 * CHUNK + 1)
    record = served.store.chunks.record(extent.chunk)
    path = pack_path(served.store.packs, record.pack)
    overwrite(path, record.offset + 10, b"\0" * 8)
    handle = served.handles.open(inode, writable=False)
    with refused(errno.EIO):
        await served.operations.read(handle, 0, len(DATA))
    assert [r.levelno for r in caplog.records] == [logging.ERROR]
    assert f"chunk {extent.chunk}" in caplog.text
    caplog.clear()
    assert bytes(await served.operations.read(handle, 0, extent.start)) == DATA[: extent.start]
    overwrite(path, record.offset, DATA[extent.start : extent.stop])
    assert bytes(await served.operations.read(handle, 0, len(DATA))) == DATA


@pytest.mark.usefixtures("no_read_ahead")
async def test_chunk_that_gc_moved(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that was planned before gc moved its chunks returns their bytes."""
    both = await served.chunked(b"f", DATA + noise(40 * CHUNK, 1))
    await served.set(both, size=len(DATA))
    await served.writeback.ingesting.settle()
    fill = Held(served.store.contents.fill)
    monkeypatch.setattr(served.store.contents, "fill", fill)
    handle = served.handles.open(both, writable=False)
    got: list[bytes] = []

    async def read() -> None:
        got.append(bytes(await served.operations.read(handle, 0, len(DATA))))

    before = served.store.packs.numbers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await fill.reached.wait()
        await served.writeback.collecting.collect()
        fill.let_go()
    assert not before & served.store.packs.numbers()
    assert got == [DATA]


async def test_read_ahead_of_a_chunk_that_gc_moved(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that gc moved while they were to be made ready are made ready where they are now."""
    monkeypatch.setattr(reading, "NEAR", CHUNK)
    inode = await served.chunked(b"f", DATA + noise(40 * CHUNK, 1))
    await served.set(inode, size=len(DATA))
    await served.writeback.ingesting.settle()
    asked = Counting(served.store.contents.prepare)
    prepare = Held(asked)
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    reader = await reader_of(served, inode)
    await served.reader.read(reader, 0, 0)
    await prepare.reached.wait()
    await served.writeback.collecting.collect()
    prepare.let_go()
    await settled(served)
    # The first chunks were verified where they were, when the format was looked for.
    start = len(DATA) - len(asked.calls) * CHUNK
    assert start < len(DATA)
    threads.calls.clear()
    assert bytes(await served.reader.read(reader, start, len(DATA))) == DATA[start:]
    assert threads.calls == []


async def test_handle_that_is_not_open(served: Served) -> None:
    """A read of an unknown handle is EINVAL."""
    with refused(errno.EINVAL):
        await served.operations.read(FileHandleT(99), 0, 10)
