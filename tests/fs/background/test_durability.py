"""When data becomes durable: commits that waiters share, commits that fail, flushes."""

import pytest
import trio
import trio.testing
from pyfuse3 import FileNameT, InodeT
from trio.testing import wait_all_tasks_blocked

from modelfs.errors import StoreFull
from tests.support.served_store import (
    ASKED,
    DATA,
    OTHER,
    TOP,
    Counting,
    Failing,
    Held,
    Served,
    names,
    renamed_over,
)
from tests.support.stores import CHUNK, Box, content_of, noise


@pytest.fixture
def served(served: Served) -> Served:
    """A served store that holds no room, so that a commit that fails is not repeated."""
    served.store.space.close()
    return served


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
    await served.background.durability.commit()  # of the session's numbers
    applied.calls.clear()
    await served.background.durability.commit()
    assert applied.calls == []


async def test_failed_commit(served: Served, box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that finds the disk full loses no change, and the next one has them all."""
    inode = await served.chunked(b"f", DATA)
    old = await served.chunked(b"old", OTHER)
    apply = Failing(served.store.index.rows.write, StoreFull("the disk is full"))
    monkeypatch.setattr(served.store.index.rows, "write", apply)
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
    apply = Failing(served.store.index.rows.write, StoreFull("full"), 1, 2, 4)
    monkeypatch.setattr(served.store.index.rows, "write", apply)
    packs = served.store.packs.numbers()
    await served.background.ingest.ingest([inode], complete=True)
    staged = {path.name for path in served.store.staging.directory.path.iterdir()}
    for attempt in (served.background.durability.commit, served.background.gc.collect):
        with pytest.raises(StoreFull):
            await attempt()
        assert packs <= served.store.packs.numbers()
        assert staged <= {path.name for path in served.store.staging.directory.path.iterdir()}
    with pytest.raises(StoreFull):
        await served.background.gc.collect()
    assert list(served.store.staging.directory.path.iterdir()) == []
    assert packs <= served.store.packs.numbers()
    await served.background.durability.commit()
    assert not packs & served.store.packs.numbers()


async def test_waiters_of_a_failed_commit(
    served: Served, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A waiter behind a failed commit tries again, and gets the result of that."""
    failing = Failing(served.store.index.rows.write, StoreFull("full"))
    held = Held(failing)
    monkeypatch.setattr(served.store.index.rows, "write", held)
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
    apply = Failing(served.store.index.rows.write, StoreFull("full"))
    monkeypatch.setattr(served.store.index.rows, "write", apply)
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


async def test_a_flush_has_the_truncations_since(
    served: Served, box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that are cut off during a flush do not come back, and the flush is not repeated."""
    calls = Counting(served.store.staging.sync)
    sync = Held(calls)
    monkeypatch.setattr(served.store.staging, "sync", sync)
    inode, handle = await served.created(b"f", DATA)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.operations.fsync, handle, False)
        await sync.reached.wait()
        await served.set(inode, size=10)
        await served.operations.write(handle, 20, b"new")
        sync.let_go()
    store = box.crash()
    assert content_of(store, inode) == DATA[:10]
    assert len(calls.calls) == 1


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
