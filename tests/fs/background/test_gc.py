"""Garbage collection beside the requests."""

import errno

import pytest
import trio
import trio.testing
from pyfuse3 import FileNameT, InodeT
from trio.testing import MockClock

from modelfs.fs.background import gc as background_gc
from modelfs.fs.background import scheduler
from modelfs.store.index.tables import PackId
from tests.support.run_jobs import collector_of
from tests.support.served_store import ASKED, DATA, TOP, Failing, Served, until
from tests.support.stores import CHUNK, noise, pack_sizes


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
