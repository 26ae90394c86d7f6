"""Reading ahead of a sequential reader: what is made ready, when, and who waits for it."""

import errno
import threading

import pytest
import trio
import trio.testing

from modelfs.errors import CorruptIndex
from modelfs.fs import readahead
from modelfs.store.content import ChunkRun, Run
from modelfs.store.tables import InodeNumber
from tests.fs.serving import DEADLINE, Counting, Failing, Held, Served
from tests.store.stores import CHUNK, noise

DATA = noise(20 * CHUNK)
TEXT = b"".join(b"line %d of a long text\n" % number for number in range(4000))


async def test_sequential_reader_is_read_ahead(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks behind what was read are made ready, and then read without a thread."""
    monkeypatch.setattr(readahead, "NEAR", CHUNK)
    inode = await served.chunked(b"f", DATA)
    reader = served.reader_of(inode)
    assert bytes(await served.reader.read(reader, 0, CHUNK)) == DATA[:CHUNK]
    await served.settled()
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
    reader = served.reader_of(inode)
    await served.reader.read(reader, 0, 0)
    await served.settled()
    assert not both.broken
    assert sum(run.size for run in taken) == len(TEXT)
    assert len({run.chunk for run in taken}) == len(taken)
    assert not reader.ahead.threads


async def test_random_reader_is_not_read_ahead(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read far from where the last one ended makes nothing ready but what it asked for."""
    monkeypatch.setattr(readahead, "NEAR", CHUNK)
    prepare = Counting(served.store.contents.prepare)
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    inode = await served.chunked(b"f", DATA)
    reader = served.reader_of(inode)
    for offset in (10 * CHUNK, 2 * CHUNK, 17 * CHUNK, 5 * CHUNK):
        part = bytes(await served.reader.read(reader, offset, CHUNK))
        assert part == DATA[offset : offset + CHUNK]
        await served.settled()
    assert prepare.calls == []


async def test_read_ahead_has_an_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """No chunk is made ready further ahead than that, nor twice."""
    monkeypatch.setattr(readahead, "AHEAD_MAX", 6 * CHUNK)
    monkeypatch.setattr(readahead, "AHEAD_STEP", 2 * CHUNK)
    prepare = Counting(served.store.contents.prepare)
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    inode = await served.chunked(b"f", DATA)
    reader = served.reader_of(inode)
    for count in range(1, 20):
        await served.reader.read(reader, (count - 1) * CHUNK, CHUNK)
        await served.settled()
        assert len(prepare.calls) <= count + 6
    assert len({call[0] for call in prepare.calls}) == len(prepare.calls)


@pytest.mark.parametrize(("content", "most"), [(DATA, 1), (TEXT, 2)])
async def test_a_reader_has_a_few_threads(
    served: Served, monkeypatch: pytest.MonkeyPatch, content: bytes, most: int
) -> None:
    """However often a reader asks, one thread verifies for it, or two decode."""
    monkeypatch.setattr(readahead, "AHEAD_STEP", 2 * CHUNK)
    inode = await served.chunked(b"f", content)
    prepare = Held(served.store.contents.prepare)
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    reader = served.reader_of(inode)
    for count in range(3):
        await served.reader.read(reader, count, 0)
        await prepare.reached.wait()
        assert 1 <= reader.ahead.threads <= most
    prepare.let_go()
    await served.settled()
    assert not reader.ahead.threads
    assert not reader.ahead.pending


@pytest.mark.parametrize("content", [DATA, TEXT], ids=["plain", "coded"])
async def test_a_request_waits_for_what_is_under_way(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """A chunk that is being made ready is not made ready a second time by who asks for it."""
    inode = await served.chunked(b"f", content)
    prepare = Held(served.store.contents.prepare)
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    reader = served.reader_of(inode)
    await served.reader.read(reader, 0, 0)
    await prepare.reached.wait()
    got: list[bytes] = []

    async def read() -> None:
        got.append(bytes(await served.reader.read(reader, 0, len(content))))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert got == []
        prepare.let_go()
    assert got == [content]
    assert threads.calls == []


async def test_nobody_waits_for_what_cannot_be_made_ready(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When that fails, requests behind it in the queue are answered by threads of their own."""
    inode = await served.chunked(b"f", DATA)
    prepare = Held(Failing(served.store.contents.prepare, OSError(errno.EIO, "broken")))
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    reader = served.reader_of(inode)
    await served.reader.read(reader, 0, 0)
    await prepare.reached.wait()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.reader.read, reader, 0, len(DATA))
        await trio.testing.wait_all_tasks_blocked(0.01)
        prepare.let_go()
    assert await served.content(inode) == DATA


async def test_a_jump_leaves_the_queue(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was to come before a reader went elsewhere is not made ready any more."""
    monkeypatch.setattr(readahead, "NEAR", CHUNK)
    inode = await served.chunked(b"f", DATA)
    done = Counting(served.store.contents.prepare)
    prepare = Held(done)
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    reader = served.reader_of(inode)
    await served.reader.read(reader, 0, 0)
    await prepare.reached.wait()
    await served.reader.read(reader, 15 * CHUNK, 10)
    prepare.let_go()
    await served.settled()
    assert len(done.calls) == 1


async def test_what_is_left_behind_leaves_the_page_cache(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoded chunk goes when its reader is past it; one that two files have stays."""
    monkeypatch.setattr(readahead, "NEAR", 2 * CHUNK)
    shared = await served.chunked(b"f", TEXT[: 4 * CHUNK])
    inode = await served.chunked(b"g", TEXT)
    runs = served.store.contents.plan(inode, 0, len(TEXT))
    reader = served.reader_of(inode)
    for offset in range(0, len(TEXT), CHUNK):
        part = bytes(await served.reader.read(reader, offset, CHUNK))
        assert part == TEXT[offset : offset + CHUNK]
    await served.settled()
    chunks = [run for run in runs if isinstance(run, ChunkRun)]
    kept = [served.store.contents.peek(run) is not None for run in chunks]
    assert len(kept) > 20
    assert await served.content(shared) == TEXT[: 4 * CHUNK]
    assert kept == [True] * 4 + [False] * (len(kept) - 8) + [True] * 4


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), CorruptIndex("damaged")])
async def test_read_ahead_fails_silently(
    served: Served, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Nobody asked for what could not be made ready, so nobody is told."""
    inode = await served.chunked(b"f", DATA)
    prepare = Failing(served.store.contents.prepare, error)
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    reader = served.reader_of(inode)
    assert bytes(await served.reader.read(reader, 0, CHUNK)) == DATA[:CHUNK]
    await served.settled()
    assert prepare.calls == 1
    assert await served.content(inode) == DATA


async def test_bug_in_read_ahead_ends_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even a bug in read-ahead reaches the mount's nursery; its traceback is in the log."""
    inode = await served.chunked(b"f", DATA)
    prepare = Failing(served.store.contents.prepare, IndexError("a bug"))
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    reader = served.reader_of(inode)
    assert bytes(await served.reader.read(reader, 0, CHUNK)) == DATA[:CHUNK]
    await served.settled()
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
    reader = served.reader_of(inode)
    assert bytes(await served.reader.read(reader, 0, CHUNK)) == DATA[:CHUNK]


async def test_read_ahead_of_a_chunk_that_gc_moved(
    served: Served, threads: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks that gc moved while they were to be made ready are made ready where they are now."""
    monkeypatch.setattr(readahead, "NEAR", CHUNK)
    inode = await served.chunked(b"f", DATA + noise(40 * CHUNK, 1))
    await served.set(inode, size=len(DATA))
    await served.writeback.ingesting.settle()
    asked = Counting(served.store.contents.prepare)
    prepare = Held(asked)
    monkeypatch.setattr(served.store.contents, "prepare", prepare)
    reader = served.reader_of(inode)
    await served.reader.read(reader, 0, 0)
    await prepare.reached.wait()
    await served.writeback.collecting.collect()
    prepare.let_go()
    await served.settled()
    # The first chunks were verified where they were, when the format was looked for.
    start = len(DATA) - len(asked.calls) * CHUNK
    assert start < len(DATA)
    threads.calls.clear()
    assert bytes(await served.reader.read(reader, start, len(DATA))) == DATA[start:]
    assert threads.calls == []
