"""When data becomes durable: commits that waiters share, flushes, the barrier of renames."""

import errno
import os
import threading
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
import trio
import trio.testing
from pyfuse3 import FileNameT, FlagT, InodeT, XAttrNameT
from trio.testing import wait_all_tasks_blocked

from modelfs.errors import StoreFull
from modelfs.fs.background import durability
from modelfs.store.index.tables import ROOT, InodeNumber
from tests.support.served_store import (
    ASKED,
    DATA,
    MODE,
    OTHER,
    TOP,
    WRITE,
    Counting,
    Failing,
    Held,
    Served,
    folder,
    names,
    refused,
    rename,
)
from tests.support.stores import CHUNK, Box, content_of, noise, staged_of


@pytest.fixture
def served(served: Served) -> Served:
    """A served store that holds no room, so that a commit that fails is not repeated."""
    served.store.space.close()
    return served


async def renamed_over(served: Served, number: int) -> InodeNumber:
    """Rename a new file over an old one, and return the new one."""
    await served.written(b"%d" % number)
    inode = await served.written(b"tmp", noise(100, number))
    await rename(served, b"tmp", b"%d" % number)
    return inode


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
    apply = Failing(served.store.index.apply, StoreFull("the disk is full"))
    monkeypatch.setattr(served.store.index, "apply", apply)
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
    apply = Failing(served.store.index.apply, StoreFull("full"), 1, 2, 4)
    monkeypatch.setattr(served.store.index, "apply", apply)
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
    failing = Failing(served.store.index.apply, StoreFull("full"))
    held = Held(failing)
    monkeypatch.setattr(served.store.index, "apply", held)
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
    apply = Failing(served.store.index.apply, StoreFull("full"))
    monkeypatch.setattr(served.store.index, "apply", apply)
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


async def test_rename_over_is_a_barrier(served: Served, box: Box) -> None:
    """A commit with the new name has the content under it, also without an fsync."""
    await served.chunked(b"f", DATA)
    inode = await served.written(b"f.tmp", OTHER)
    await rename(served, b"f.tmp", b"f")
    await served.background.durability.commit()
    store = box.crash()
    assert store.namespace.lookup(ROOT, b"f") == inode
    assert content_of(store, inode) == OTHER


async def test_exchange_is_a_barrier(served: Served, box: Box) -> None:
    """After an exchange, the commit has the content of both files."""
    one, two = await served.written(b"one", DATA), await served.written(b"two", OTHER)
    await served.operations.rename(TOP, FileNameT(b"one"), TOP, FileNameT(b"two"), FlagT(2), ASKED)
    await served.background.durability.commit()
    store = box.crash()
    assert (content_of(store, one), content_of(store, two)) == (DATA, OTHER)


async def test_rename_during_a_commit(
    served: Served, box: Box, held_commit: Held[..., None]
) -> None:
    """A rename during the write of a commit is in the next one, with its content."""
    await served.written(b"f", DATA)
    inode = await served.written(b"f.tmp", OTHER)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.background.durability.commit)
        await held_commit.reached.wait()
        await rename(served, b"f.tmp", b"f")
        held_commit.let_go()
    await served.background.durability.commit()
    store = box.crash()
    assert names(store) == [b"f"]
    assert content_of(store, inode) == OTHER


class Syncs:
    """Stands for `Staging.sync`; each call waits for its turn."""

    def __init__(self, real: Callable[..., None]) -> None:
        self._real = real
        self._turns = threading.Semaphore(0)
        self.count = 0

    def __call__(self, *args: object) -> None:
        trio.from_thread.run_sync(self._begin)
        assert self._turns.acquire(timeout=10)
        self._real(*args)

    def _begin(self) -> None:
        self.count += 1

    async def reach(self, count: int) -> None:
        with trio.fail_after(10):
            while self.count < count:
                await wait_all_tasks_blocked(0.001)

    def let_go(self, count: int = 1) -> None:
        self._turns.release(count)


@pytest.fixture
def syncs(served: Served, monkeypatch: pytest.MonkeyPatch) -> Syncs:
    syncs = Syncs(served.store.staging.sync)
    monkeypatch.setattr(served.store.staging, "sync", syncs)
    return syncs


async def test_rename_waits_for_a_barrier(served: Served, box: Box, syncs: Syncs) -> None:
    """A commit lets renames pass during its first flush, and holds them up after that."""
    done: list[bytes] = []

    async def late_rename() -> None:
        await rename(served, b"late.tmp", b"late")
        done.append(b"late")

    await served.written(b"late")
    late = await served.written(b"late.tmp", b"late")
    inodes = [await renamed_over(served, 0)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.background.durability.commit)
        await syncs.reach(1)
        inodes.append(await renamed_over(served, 1))  # during the first flush: passes
        syncs.let_go()
        await syncs.reach(2)
        nursery.start_soon(late_rename)
        await wait_all_tasks_blocked()
        assert done == []
        syncs.let_go()
    assert done == [b"late"]
    syncs.let_go(10)
    store = box.crash()
    assert [content_of(store, inode) for inode in inodes] == [noise(100, n) for n in (0, 1)]
    assert store.namespace.lookup(ROOT, b"late") != late


async def test_no_rename_waits_for_ever(served: Served, syncs: Syncs) -> None:
    """A rename that waits for a commit goes on after it, however many flushes that needs."""
    waiting = [await served.written(b"w%d" % number, b"x") for number in range(3)]
    inodes = [await served.written(b"%d" % number, b"x") for number in range(3)]
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            served.background.durability.replaced(inodes[0])
            await served.set(ROOT, mode=0o755)
            nursery.start_soon(served.background.durability.commit)
            for number in range(1, 4):
                await syncs.reach(number)
                name = b"w%d" % (number - 1)
                nursery.start_soon(rename, served, name, b"new-" + name)
                if number < 3:
                    # Like a rename that had passed just before the commit held up the others.
                    served.background.durability.replaced(inodes[number])
                await wait_all_tasks_blocked()
                syncs.let_go()
    assert [await served.looked_up(b"new-w%d" % n) for n in range(3)] == waiting
    syncs.let_go(100)


async def test_barrier_that_fails(
    served: Served, box: Box, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A renamed file that cannot be flushed is logged, and does not stop commits."""
    await served.chunked(b"f", DATA)
    inode = await served.written(b"f.tmp", OTHER)
    good = await renamed_over(served, 0)
    await rename(served, b"f.tmp", b"f")
    sync = Failing(served.store.staging.sync, OSError(errno.EIO, "broken"))
    monkeypatch.setattr(served.store.staging, "sync", sync)
    await served.background.durability.commit()
    assert "broken" in caplog.text
    assert sync.calls == 2
    await rename(served, b"f", b"g")
    await served.background.durability.commit()
    caplog.clear()
    assert await served.content(inode) == OTHER
    store = box.crash()
    assert names(store) == [b"0", b"g"]
    assert content_of(store, good) == noise(100, 0)


# -- the gate


async def test_many_changes_wait_for_a_commit(
    served: Served, applied: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes that no commit has made durable have a bound in memory; the next request commits."""
    monkeypatch.setattr(durability, "BYTES_MAX", 100_000)
    inode = await served.written(b"f")
    for number in range(10):
        name = XAttrNameT(b"user.%d" % number)
        await served.operations.setxattr(InodeT(inode), name, bytes(40_000), ASKED)
        assert served.store.index.uncommitted_bytes < 150_000
    assert len(applied.calls) > 2


async def test_an_old_change_holds_up_others(
    served: Served, applied: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that finds a change which waits for too long commits it first."""
    await served.written(b"f")
    monkeypatch.setattr(durability, "AGE_MAX", 0.0)
    await served.written(b"g")
    assert len(applied.calls) == 1


async def test_few_files_keep_a_descriptor(served: Served) -> None:
    """If many staging files have bytes that are not durable, a write waits for the oldest ones."""
    served.store.staging.kept_max = 2
    inodes = [await served.written(b"%d" % number, DATA) for number in range(6)]
    assert [inode for inode in inodes if staged_of(served.store, inode).dirty] == inodes[-3:]


async def test_a_file_that_cannot_be_flushed_fails_no_other_write(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of the file that is flushed to free its descriptor is in the log."""
    served.store.staging.kept_max = 0
    inode = await served.written(b"f", DATA)
    failing = Failing(served.store.staging.sync, OSError(errno.EIO, "broken"))
    monkeypatch.setattr(served.store.staging, "sync", failing)
    other = await served.written(b"g", DATA)
    assert "a file could not be flushed: [Errno 5] broken" in caplog.text
    caplog.clear()
    assert await served.content(inode) == await served.content(other) == DATA


CHANGES: dict[str, Callable[[Served, InodeT], Awaitable[object]]] = {
    "mkdir": lambda s, i: s.operations.mkdir(TOP, FileNameT(b"d"), MODE, ASKED),
    "mknod": lambda s, i: s.operations.mknod(TOP, FileNameT(b"n"), MODE, 0, ASKED),
    "create": lambda s, i: s.operations.create(TOP, FileNameT(b"c"), MODE, WRITE, ASKED),
    "symlink": lambda s, i: s.operations.symlink(TOP, FileNameT(b"s"), FileNameT(b"f"), ASKED),
    "link": lambda s, i: s.operations.link(i, TOP, FileNameT(b"l"), ASKED),
    "rename": lambda s, i: rename(s, b"f", b"r"),
    "setxattr": lambda s, i: s.operations.setxattr(i, XAttrNameT(b"user.a"), b"x", ASKED),
    "removexattr": lambda s, i: s.operations.removexattr(i, XAttrNameT(b"user.old"), ASKED),
    "chmod": lambda s, i: s.set(InodeNumber(i), mode=0o600),
    "utimens": lambda s, i: s.set(InodeNumber(i), mtime_ns=5),
    "truncate": lambda s, i: s.set(InodeNumber(i), size=0),
    "open with O_TRUNC": lambda s, i: s.operations.open(i, FlagT(WRITE | os.O_TRUNC), ASKED),
    "write": lambda s, i: s.operations.write(
        s.handles.open(InodeNumber(i), writable=True), 0, b"new"
    ),
    "unlink": lambda s, i: s.operations.unlink(TOP, FileNameT(b"f"), ASKED),
    "rmdir": lambda s, i: s.operations.rmdir(TOP, FileNameT(b"old"), ASKED),
}
FREEING: Final = {"removexattr", "truncate", "open with O_TRUNC", "unlink", "rmdir"}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), StoreFull("full")])
async def test_commits_that_fail_are_errors_of_requests(
    served: Served,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
    error: OSError | StoreFull,
) -> None:
    """While commits fail, changes are refused, except those that free room on a full disk."""
    inode = InodeT(await served.written(b"f", DATA))
    await served.operations.setxattr(inode, XAttrNameT(b"user.old"), b"x", ASKED)
    await folder(served, b"old")
    apply = served.store.index.apply
    failing = Failing(apply, error, *range(1, 100))
    monkeypatch.setattr(durability, "AGE_MAX", 0.0)
    monkeypatch.setattr(served.store.index, "apply", failing)
    if change in FREEING and isinstance(error, StoreFull):
        await CHANGES[change](served, inode)
    else:
        with refused(error.errno or 0):
            await CHANGES[change](served, inode)
        tries = failing.calls
        with refused(error.errno or 0):  # at once, without another attempt
            await CHANGES[change](served, inode)
        assert failing.calls == tries
    monkeypatch.setattr(served.store.index, "apply", apply)
    monkeypatch.setattr(durability, "FAILED_SECONDS", 0.0)
    if not (change in FREEING and isinstance(error, StoreFull)):
        await CHANGES[change](served, inode)
    caplog.clear()
