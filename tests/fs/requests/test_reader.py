"""Reads: at once or on a thread, with and without read-ahead, and of damaged chunks."""

import errno
import logging
import os
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from pyfuse3 import FileHandleT

from modelfs.fs.requests import readahead
from modelfs.fs.requests.reader import REQUEST_MAX
from modelfs.store.files import window_file
from modelfs.store.files.read_runs import ReadRun
from modelfs.store.index.tables import InodeNumber
from tests.support.served_store import Counting, Failing, Held, Served, refused
from tests.support.stores import CHUNK, noise, overwrite, pack_path

DATA = noise(20 * CHUNK)
TEXT = b"".join(b"line %d of a long text\n" % number for number in range(4000))


@pytest.fixture
def no_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable read-ahead: every read looks like a jump."""
    monkeypatch.setattr(readahead, "NEAR", -1)


async def test_staged_bytes_need_no_thread(served: Served, threads: Counting[..., None]) -> None:
    """Bytes in the kernel's page cache, and holes, are read at once."""
    inode = await served.written(b"f", DATA)
    await served.set(inode, size=30 * CHUNK)
    reader = served.reader_of(inode)
    assert bytes(await served.reader.read(reader, 0, 1 << 20)) == DATA + bytes(10 * CHUNK)
    assert bytes(await served.reader.read(reader, 25 * CHUNK, 10)) == bytes(10)
    assert threads.calls == []


async def test_an_answer_that_waits_for_the_disk_takes_a_thread(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kernel is asked by fdatasync, undurable bytes are read on a thread, others not."""
    monkeypatch.setattr(window_file, "answer_waits", lambda _: True)
    inode = await served.written(b"f", DATA)
    reader = served.reader_of(inode)
    assert bytes(await served.reader.read(reader, 0, 100)) == DATA[:100]
    assert len(threads.calls) == 1
    await served.background.durability.flush(inode)
    assert bytes(await served.reader.read(reader, 0, 100)) == DATA[:100]
    assert len(threads.calls) == 1


@pytest.mark.usefixtures("no_read_ahead")
async def test_chunks_are_verified_on_a_thread_once(
    served: Served, threads: Counting[..., None]
) -> None:
    """The first read of a plain chunk goes to a thread; those after it are served at once."""
    inode = await served.chunked(b"f", DATA)
    reader = served.reader_of(inode)
    for _ in range(3):
        assert bytes(await served.reader.read(reader, 0, len(DATA))) == DATA
    assert len(threads.calls) == 1


@pytest.mark.usefixtures("no_read_ahead")
async def test_coded_chunks_are_decoded(served: Served) -> None:
    """A read of coded chunks returns the bytes that were written."""
    inode = await served.chunked(b"f", TEXT)
    reader = served.reader_of(inode)
    assert bytes(await served.reader.read(reader, 5, 50_000)) == TEXT[5:50_005]


@pytest.mark.usefixtures("no_read_ahead")
async def test_decoded_chunks_need_no_thread(served: Served, threads: Counting[..., None]) -> None:
    """Chunks are decoded on a thread; while they stay in memory, reads are served at once."""
    inode = await served.chunked(b"f", TEXT)
    reader = served.reader_of(inode)
    for _ in range(3):
        assert bytes(await served.reader.read(reader, 5, 50_000)) == TEXT[5:50_005]
    assert len(threads.calls) == 1


async def test_a_sparse_map_is_added_up_on_a_thread_once(
    served: Served, threads: Counting[..., None]
) -> None:
    """The first read of a hole in a map goes to a thread; those after it are served at once."""
    inode = await served.chunked(b"f", DATA)
    await served.set(inode, size=30 * CHUNK)
    await served.background.ingest.sync()
    reader = served.reader_of(inode)
    threads.calls.clear()
    for start in (25, 22, 25):
        assert bytes(await served.reader.read(reader, start * CHUNK, 100)) == bytes(100)
    assert len(threads.calls) == 1


@pytest.mark.parametrize(
    ("offset", "size", "length"),
    [(0, 0, 0), (0, 1, 1), (len(DATA) - 1, 10, 1), (len(DATA), 10, 0), (10**15, 10, 0)],
)
async def test_fewer_bytes_at_the_end(served: Served, offset: int, size: int, length: int) -> None:
    """A read past the end returns the bytes before it, in chunks or staged."""
    for inode in (await served.written(b"f", DATA), await served.chunked(b"g", DATA)):
        reader = served.reader_of(inode)
        got = bytes(await served.reader.read(reader, offset, size))
        assert got == DATA[offset : offset + length]


async def test_disk_that_would_block(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a read that would wait for the disk goes to a thread."""
    inode = await served.written(b"f", DATA)
    reader = served.reader_of(inode)
    monkeypatch.setattr(os, "preadv", Failing(os.preadv, BlockingIOError(errno.EAGAIN, "wait")))
    assert bytes(await served.reader.read(reader, 0, len(DATA))) == DATA
    assert len(threads.calls) == 1
    assert bytes(await served.reader.read(reader, 0, len(DATA))) == DATA
    assert len(threads.calls) == 1


async def test_short_read_is_finished_on_a_thread(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the page cache has only some of the bytes, a thread reads them all."""
    real = os.preadv

    def short(fd: int, into: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        return real(fd, [into[0][:100]] if flags else into, offset)

    inode = await served.written(b"f", DATA)
    reader = served.reader_of(inode)
    monkeypatch.setattr(os, "preadv", short)
    assert bytes(await served.reader.read(reader, 0, len(DATA))) == DATA
    assert len(threads.calls) == 1


async def test_file_system_without_nowait(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without support of RWF_NOWAIT, it is tried once, and all reads go to threads."""
    inode = await served.written(b"f", DATA)
    reader = served.reader_of(inode)
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
    """A disk error fails the read and is logged with the file; the next read may succeed."""
    inode, handle = await served.created(b"f", DATA)
    monkeypatch.setattr(os, "preadv", Failing(os.preadv, OSError(errno.EIO, "broken"), 1, 2))
    with refused(errno.EIO):
        await served.operations.read(handle, 0, 100)
    assert str(served.store.staging.directory.path) in caplog.text
    caplog.clear()
    assert await served.content(inode) == DATA


async def test_buffers_are_not_shared(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Concurrent reads never write into each other's replies."""
    files = {await served.chunked(b"%d" % n, noise(CHUNK, n)): noise(CHUNK, n) for n in range(20)}
    in_use: list[int] = []
    wrong: list[InodeNumber] = []
    fill = served.store.contents.fill

    def marked(runs: list[ReadRun], into: memoryview) -> None:
        owner = id(into.obj)
        assert owner not in in_use
        in_use.append(owner)
        fill(runs, into)
        in_use.remove(owner)

    async def check(inode: InodeNumber) -> None:
        reader = served.reader_of(inode)
        for _ in range(5):
            # As pyfuse3 does: copy the reply before this task waits again.
            if bytes(await served.reader.read(reader, 0, CHUNK)) != files[inode]:
                wrong.append(inode)
            await trio.lowlevel.checkpoint()

    monkeypatch.setattr(served.store.contents, "fill", marked)
    served.reader._has_nowait = False  # so that every read takes a while
    async with trio.open_nursery() as nursery:
        for inode in files:
            nursery.start_soon(check, inode)
    assert wrong == []


async def test_buffers_are_reused(served: Served) -> None:
    """Any number of consecutive reads uses two buffers."""
    inode = await served.written(b"f", DATA)
    reader = served.reader_of(inode)
    buffers = [(await served.reader.read(reader, 0, CHUNK)).obj for _ in range(10)]
    assert len({id(buffer) for buffer in buffers}) == 2


async def test_large_reads_have_their_own_buffer(served: Served) -> None:
    """A request larger than `REQUEST_MAX` is answered, and its buffer is not kept."""
    data = noise(REQUEST_MAX + 5)
    inode = await served.written(b"f", data)
    reader = served.reader_of(inode)
    views = [await served.reader.read(reader, 0, len(data)) for _ in range(2)]
    assert all(bytes(view) == data for view in views)
    assert views[0].obj is not views[1].obj


async def test_damaged_chunk(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A read of a damaged chunk is EIO and logged; its neighbours can be read."""
    monkeypatch.setattr(readahead, "NEAR", -1)
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
    await served.background.ingest.sync()
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
        await served.background.gc.collect()
        fill.let_go()
    assert not before & served.store.packs.numbers()
    assert got == [DATA]


async def test_handle_that_is_not_open(served: Served) -> None:
    """A read of an unknown handle is EINVAL."""
    with refused(errno.EINVAL):
        await served.operations.read(FileHandleT(99), 0, 10)
