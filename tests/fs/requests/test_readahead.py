"""Read-ahead: which chunks are made ready, when, and which requests wait for them."""

import errno
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from modelfs.errors import CorruptIndex
from modelfs.fs.handles import Handle
from modelfs.fs.requests import readahead
from modelfs.jobs.gc import collector
from modelfs.store.files.read_runs import ChunkRun, ReadRun
from modelfs.store.index.tables import ChunkId, InodeNumber
from tests.support.served_store import DEADLINE, Counting, Failing, Held, Served
from tests.support.stores import CHUNK, noise, pack_sizes

PACK = "00000001.pack"
DATA = noise(20 * CHUNK)
TEXT = b"".join(b"line %d of a long text\n" % number for number in range(4000))


async def held_ahead(
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
    inode: InodeNumber,
    prepare: Callable[[ChunkRun], None],
) -> tuple[Handle, Held[[ChunkRun], None]]:
    """Begin to read a file, and return its reader when a thread works on the next chunk."""
    held = Held(prepare)
    monkeypatch.setattr(served.store.contents, "warm", held)
    reader = served.reader_of(inode)
    await served.reader.read(reader, 0, 0)
    await held.reached.wait()
    return reader, held


async def answered_when_let_go(
    ask: Callable[[], Awaitable[memoryview]],
    held: Held[[ChunkRun], None],
    threads: Counting[..., None],
) -> bytes:
    """Let the thread go on; return the answer, for which no other thread was used."""
    got: list[bytes] = []

    async def read() -> None:
        got.append(bytes(await ask()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert got == []
        assert threads.calls == []
        held.let_go()
    return got[0]


async def test_sequential_reader_is_read_ahead(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks ahead of a sequential reader are made ready, and then read without a thread."""
    monkeypatch.setattr(readahead, "NEAR", CHUNK)
    inode = await served.chunked(b"f", DATA)
    reader = served.reader_of(inode)
    assert bytes(await served.reader.read(reader, 0, CHUNK)) == DATA[:CHUNK]
    await served.idle()
    filled = len(threads.calls)
    for offset in range(CHUNK, len(DATA), CHUNK):
        part = bytes(await served.reader.read(reader, offset, CHUNK))
        assert part == DATA[offset : offset + CHUNK]
    assert len(threads.calls) == filled == 1


async def test_two_threads_decode_ahead(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads decode ahead, each chunk once."""
    inode = await served.chunked(b"f", TEXT)
    both = threading.Barrier(2)
    real = served.store.contents.warm
    taken: list[ChunkRun] = []

    def prepare(run: ChunkRun) -> None:
        taken.append(run)
        if len(taken) <= 2:
            both.wait(DEADLINE)
        real(run)

    monkeypatch.setattr(served.store.contents, "warm", prepare)
    reader = served.reader_of(inode)
    await served.reader.read(reader, 0, 0)
    await served.idle()
    assert not both.broken
    assert sum(run.size for run in taken) == len(TEXT)
    assert len({run.chunk for run in taken}) == len(taken)
    assert not reader.ahead.tasks


async def test_random_reader_is_not_read_ahead(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read far from the end of the last one makes no other chunk ready."""
    monkeypatch.setattr(readahead, "NEAR", CHUNK)
    prepare = Counting(served.store.contents.warm)
    monkeypatch.setattr(served.store.contents, "warm", prepare)
    inode = await served.chunked(b"f", DATA)
    reader = served.reader_of(inode)
    for offset in (10 * CHUNK, 2 * CHUNK, 17 * CHUNK, 5 * CHUNK):
        part = bytes(await served.reader.read(reader, offset, CHUNK))
        assert part == DATA[offset : offset + CHUNK]
        await served.idle()
    assert prepare.calls == []


async def test_read_ahead_has_an_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """No chunk is made ready further ahead than `AHEAD_MAX`, and none twice."""
    monkeypatch.setattr(readahead, "AHEAD_MAX", 6 * CHUNK)
    monkeypatch.setattr(readahead, "AHEAD_STEP", 2 * CHUNK)
    prepare = Counting(served.store.contents.warm)
    monkeypatch.setattr(served.store.contents, "warm", prepare)
    inode = await served.chunked(b"f", DATA)
    reader = served.reader_of(inode)
    for count in range(1, 20):
        await served.reader.read(reader, (count - 1) * CHUNK, CHUNK)
        await served.idle()
        assert len(prepare.calls) <= count + 6
    assert len({call[0] for call in prepare.calls}) == len(prepare.calls)


@pytest.mark.parametrize(("content", "most"), [(DATA, 1), (TEXT, 2)])
async def test_a_reader_has_a_few_threads(
    served: Served, monkeypatch: pytest.MonkeyPatch, content: bytes, most: int
) -> None:
    """A reader has one thread that verifies, or two that decode, for any number of requests."""
    monkeypatch.setattr(readahead, "AHEAD_STEP", 2 * CHUNK)
    inode = await served.chunked(b"f", content)
    prepare = Held(served.store.contents.warm)
    monkeypatch.setattr(served.store.contents, "warm", prepare)
    reader = served.reader_of(inode)
    for count in range(3):
        await served.reader.read(reader, count, 0)
        await prepare.reached.wait()
        assert 1 <= reader.ahead.tasks <= most
    prepare.let_go()
    await served.idle()
    assert not reader.ahead.tasks
    assert not reader.ahead.pending


@pytest.mark.parametrize("content", [DATA, TEXT], ids=["plain", "coded"])
async def test_a_request_waits_for_a_chunk_under_way(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """A request for a chunk that is being made ready waits for it."""
    inode = await served.chunked(b"f", content)
    reader, prepare = await held_ahead(served, monkeypatch, inode, served.store.contents.warm)
    asked = partial(served.reader.read, reader, 0, len(content))
    assert await answered_when_let_go(asked, prepare, threads) == content
    assert threads.calls == []


async def test_no_request_waits_after_a_failure(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure, requests for chunks behind it in the queue use threads of their own."""
    inode = await served.chunked(b"f", DATA)
    reader, prepare = await held_ahead(
        served,
        monkeypatch,
        inode,
        Failing(served.store.contents.warm, OSError(errno.EIO, "broken")),
    )
    asked = partial(served.reader.read, reader, 0, len(DATA))
    assert await answered_when_let_go(asked, prepare, threads) == DATA
    assert len(threads.calls) == 1


async def test_a_jump_leaves_the_queue(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a jump of the reader, chunks queued before it are not made ready."""
    monkeypatch.setattr(readahead, "NEAR", CHUNK)
    inode = await served.chunked(b"f", DATA)
    done = Counting(served.store.contents.warm)
    reader, prepare = await held_ahead(served, monkeypatch, inode, done)
    await served.reader.read(reader, 15 * CHUNK, 10)
    prepare.let_go()
    await served.idle()
    assert len(done.calls) == 1


async def test_chunks_behind_a_reader_leave_the_cache(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoded chunk is evicted behind its reader, unless two files have it."""
    monkeypatch.setattr(readahead, "NEAR", 2 * CHUNK)
    shared = await served.chunked(b"f", TEXT[: 4 * CHUNK])
    inode = await served.chunked(b"g", TEXT)
    runs = served.store.contents.plan(inode, 0, len(TEXT))
    reader = served.reader_of(inode)
    for offset in range(0, len(TEXT), CHUNK):
        part = bytes(await served.reader.read(reader, offset, CHUNK))
        assert part == TEXT[offset : offset + CHUNK]
    await served.idle()
    chunks = [run for run in runs if isinstance(run, ChunkRun)]
    kept = [served.store.contents.peek(run) is not None for run in chunks]
    assert len(kept) > 20
    assert await served.content(shared) == TEXT[: 4 * CHUNK]
    assert kept == [True] * 4 + [False] * (len(kept) - 8) + [True] * 4


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), CorruptIndex("damaged")])
async def test_read_ahead_fails_silently(
    served: Served, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A failure of read-ahead alone fails no request and logs no warning."""
    inode = await served.chunked(b"f", DATA)
    prepare = Failing(served.store.contents.warm, error)
    monkeypatch.setattr(served.store.contents, "warm", prepare)
    reader = served.reader_of(inode)
    assert bytes(await served.reader.read(reader, 0, CHUNK)) == DATA[:CHUNK]
    await served.idle()
    assert prepare.calls == 1
    assert await served.content(inode) == DATA


async def test_bug_in_read_ahead_ends_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug in read-ahead does not reach the mount's nursery, and its traceback is in the log."""
    inode = await served.chunked(b"f", DATA)
    prepare = Failing(served.store.contents.warm, IndexError("a bug"))
    monkeypatch.setattr(served.store.contents, "warm", prepare)
    reader = served.reader_of(inode)
    assert bytes(await served.reader.read(reader, 0, CHUNK)) == DATA[:CHUNK]
    await served.idle()
    assert "a bug" in caplog.text
    caplog.clear()
    assert await served.content(inode) == DATA


async def test_damage_ahead_does_not_fail_a_read(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage in the index ahead of a reader does not fail its read."""
    inode = await served.chunked(b"f", DATA)
    plan = served.store.contents.plan

    def damaged(inode: InodeNumber, start: int, size: int) -> list[ReadRun]:
        if start + size > 10 * CHUNK:
            raise CorruptIndex("chunk 7 has no record")
        return plan(inode, start, size)

    monkeypatch.setattr(served.store.contents, "plan", damaged)
    reader = served.reader_of(inode)
    assert bytes(await served.reader.read(reader, 0, CHUNK)) == DATA[:CHUNK]


async def test_read_ahead_of_a_chunk_that_gc_moved(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that gc moves while they are queued are made ready at their new places."""
    monkeypatch.setattr(readahead, "NEAR", CHUNK)
    inode = await served.chunked(b"f", DATA + noise(40 * CHUNK, 1))
    await served.set(inode, size=len(DATA))
    await served.background.ingest.sync()
    asked = Counting(served.store.contents.warm)
    reader, prepare = await held_ahead(served, monkeypatch, inode, asked)
    await served.background.gc.collect()
    prepare.let_go()
    await served.idle()
    # Ingest has verified the first chunks at their old places, to recognise the format.
    start = len(DATA) - len(asked.calls) * CHUNK
    assert start < len(DATA)
    threads.calls.clear()
    assert bytes(await served.reader.read(reader, start, len(DATA))) == DATA[start:]
    assert threads.calls == []


async def test_a_request_waits_while_gc_cuts_its_pack(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads a chunk that was verified just before the cut at its new place."""
    monkeypatch.setattr(collector, "PORTION_CHUNKS", 1)
    kept = await served.chunked(b"kept", noise(CHUNK, 1))
    gone = await served.chunked(b"gone", noise(40 * CHUNK, 2))
    inode = await served.chunked(b"f", DATA)
    await served.set(gone, size=0)
    await served.background.ingest.sync()
    served.store.stored_bytes.distrust_all()
    before = pack_sizes(served.store)
    warm = served.store.contents.warm
    taken: list[ChunkRun] = []

    async def cut() -> None:
        flush = Failing(served.store.packs.flush, OSError(errno.ENOSPC, "full"), 2)
        with monkeypatch.context() as patch:
            patch.setattr(served.store.packs, "flush", flush)
            with pytest.raises(OSError, match="full"):
                await served.background.gc.collect()

    def prepare(run: ChunkRun) -> None:
        taken.append(run)
        if len(taken) == 2:
            trio.from_thread.run(cut)
        warm(run)

    reader, held = await held_ahead(served, monkeypatch, inode, prepare)
    threads.calls.clear()
    asked = partial(served.reader.read, reader, 0, len(DATA))
    assert await answered_when_let_go(asked, held, threads) == DATA
    after = pack_sizes(served.store)
    assert after[PACK] <= before[PACK] - len(DATA)
    assert await served.content(kept) == noise(CHUNK, 1)


@asynccontextmanager
async def busy(served: Served) -> AsyncIterator[None]:
    """Keep all threads of read-ahead busy for a block."""
    turns = served.reader._ahead._turns
    holders = [object() for _ in range(int(turns.total_tokens))]
    for holder in holders:
        turns.acquire_on_behalf_of_nowait(holder)
    yield
    for holder in holders:
        turns.release_on_behalf_of(holder)
    await served.idle()


async def test_a_reader_without_a_turn_does_not_wait(
    served: Served, threads: Counting[..., None]
) -> None:
    """While other readers have all turns, a reader's requests use threads of their own."""
    inode = await served.chunked(b"f", TEXT)
    reader = served.reader_of(inode)
    async with busy(served):
        with trio.fail_after(DEADLINE):
            for offset in range(0, 4 * CHUNK, CHUNK):
                part = bytes(await served.reader.read(reader, offset, CHUNK))
                assert part == TEXT[offset : offset + CHUNK]
        assert len(threads.calls) == 4


async def test_decoded_chunks_need_no_turn(served: Served, threads: Counting[..., None]) -> None:
    """A second reader of decoded chunks needs no thread, and queues no chunk."""
    inode = await served.chunked(b"f", TEXT)
    await served.reader.read(served.reader_of(inode), 0, len(TEXT))
    threads.calls.clear()
    reader = served.reader_of(inode)
    async with busy(served):
        for offset in range(0, len(TEXT), CHUNK):
            part = bytes(await served.reader.read(reader, offset, CHUNK))
            assert part == TEXT[offset : offset + CHUNK]
        assert threads.calls == []
        assert not reader.ahead.queue


async def test_readers_take_turns(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `TURN` chunks a reader's thread goes to the next reader."""
    monkeypatch.setattr(readahead, "TURN", 2)
    monkeypatch.setattr(readahead, "DECODERS", 1)
    served.reader._ahead._turns.total_tokens = 1
    inodes = [await served.chunked(b"%d" % n, TEXT[n:]) for n in range(2)]
    first = Held(served.store.contents.warm)
    readers = [served.reader_of(inode) for inode in inodes]
    order: list[int] = []
    owners: dict[ChunkId, int] = {}

    def prepare(run: ChunkRun) -> None:
        order.append(owners[run.chunk])
        first(run)

    monkeypatch.setattr(served.store.contents, "warm", prepare)
    for number, (inode, reader) in enumerate(zip(inodes, readers, strict=True)):
        runs = served.store.contents.plan(inode, 0, 1 << 20)
        owners |= {run.chunk: number for run in runs if isinstance(run, ChunkRun)}
        await served.reader.read(reader, 0, 0)
        await first.reached.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
    first.let_go()
    await served.idle()
    assert order[:8] == [0, 0, 1, 1, 0, 0, 1, 1]


@pytest.mark.parametrize(("memory", "most"), [(0, 0), (12 * CHUNK, 6), (40 * CHUNK, 20)])
async def test_no_more_is_made_ready_than_the_cache_keeps(
    served: Served, monkeypatch: pytest.MonkeyPatch, memory: int, most: int
) -> None:
    """One reader's chunks ahead take at most half of the chunk cache."""
    monkeypatch.setattr(served.reader._ahead, "_memory", memory)
    inode = await served.chunked(b"f", TEXT)
    prepare = Counting(served.store.contents.warm)
    monkeypatch.setattr(served.store.contents, "warm", prepare)
    reader = served.reader_of(inode)
    for _ in range(9):
        await served.reader.read(reader, 0, 0)
        await served.idle()
    assert most - 3 <= len(prepare.calls) <= most


async def test_a_closed_file_is_read_ahead_no_more(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunks in the queue of a file that is closed are not made ready."""
    inode = await served.chunked(b"f", DATA)
    done = Counting(served.store.contents.warm)
    prepare = Held(done)
    monkeypatch.setattr(served.store.contents, "warm", prepare)
    handle = served.handles.open(inode, writable=False)
    await served.reader.read(served.handles[handle], 0, 0)
    await prepare.reached.wait()
    await served.operations.release(handle)
    prepare.let_go()
    await served.idle()
    assert len(done.calls) == 1


async def test_a_jump_wakes_waiting_requests(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that waits for a chunk is answered if a jump drops the chunk from the queue."""
    monkeypatch.setattr(readahead, "NEAR", CHUNK)
    inode = await served.chunked(b"f", DATA)
    reader, prepare = await held_ahead(served, monkeypatch, inode, served.store.contents.warm)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.reader.read, reader, CHUNK, 10)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert threads.calls == []
        await served.reader.read(reader, 15 * CHUNK, 10)
    assert len(threads.calls) == 2
    prepare.let_go()
    await served.idle()


async def test_chunks_read_repeatedly_are_noted_once(served: Served) -> None:
    """Repeated reads of the beginning of a file are noted once."""
    inode = await served.chunked(b"f", TEXT)
    reader = served.reader_of(inode)
    for _ in range(20):
        await served.reader.read(reader, 0, 4 * CHUNK)
    assert len(reader.ahead.passed) == 4
