"""Changes of names and attributes: the room that they need, and the commits that they end with."""

import errno
from collections.abc import Awaitable, Callable

import pytest
from pyfuse3 import InodeT, XAttrNameT

from modelfs.errors import StoreFull
from modelfs.fs.requests.changes import NAME_ROOM, SyncOptions
from modelfs.fs.requests.operations import Operations
from tests.support.served_store import (
    ASKED,
    FOLDER_MODE,
    MODE,
    NO_FLAGS,
    TOP,
    WRITE,
    Counting,
    Failing,
    Served,
    named,
    refused,
)


async def test_a_longer_name_needs_room(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full store a file is renamed to a shorter name, but to no longer one."""
    await served.written(b"name", b"data")
    for grant in ("reserve", "borrow"):
        full = Failing(getattr(served.store.space, grant), StoreFull("full"), *range(1, 1000))
        monkeypatch.setattr(served.store.space, grant, full)
    with refused(errno.ENOSPC):
        await served.operations.rename(TOP, named("name"), TOP, named("longer"), NO_FLAGS, ASKED)
    await served.operations.rename(TOP, named("name"), TOP, named("n"), NO_FLAGS, ASKED)
    assert await served.looked_up(b"n")
    caplog.clear()


async def test_room_is_given_back(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for rows is held until the change is in the index's memory, or has failed."""
    reserve, arrive = Counting(served.store.space.reserve), Counting(served.store.space.arrive)
    monkeypatch.setattr(served.store.space, "reserve", reserve)
    monkeypatch.setattr(served.store.space, "arrive", arrive)
    await served.operations.mkdir(TOP, named("d"), FOLDER_MODE, ASKED)
    with refused(errno.EEXIST):
        await served.operations.mkdir(TOP, named("d"), FOLDER_MODE, ASKED)
    inode = InodeT(await served.looked_up(b"d"))
    await served.operations.setxattr(inode, XAttrNameT(b"user.a"), b"12345", ASKED)
    sizes = [NAME_ROOM, NAME_ROOM, NAME_ROOM + 5]
    assert reserve.calls == [(size,) for size in sizes]
    assert arrive.calls == [(size, 0) for size in sizes]


async def test_synchronous_names(served: Served, applied: Counting[..., None]) -> None:
    """With `-o sync` or `-o dirsync`, each change of a name is committed before its reply."""
    operations = Operations(
        served.store,
        served.handles,
        served.background,
        served.reader,
        served.writer,
        sync=SyncOptions(names=True),
    )
    changes: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: operations.mkdir(TOP, named("d"), FOLDER_MODE, ASKED),
        lambda: operations.symlink(TOP, named("l"), named("target"), ASKED),
        lambda: operations.mknod(TOP, named("n"), MODE, 0, ASKED),
        lambda: operations.create(TOP, named("f"), MODE, WRITE, ASKED),
        lambda: operations.rename(TOP, named("f"), TOP, named("g"), NO_FLAGS, ASKED),
        lambda: operations.rename(TOP, named("g"), TOP, named("n"), NO_FLAGS, ASKED),
        lambda: operations.unlink(TOP, named("l"), ASKED),
        lambda: operations.rmdir(TOP, named("d"), ASKED),
    )
    for commits, change in enumerate(changes, 1):
        await change()
        assert len(applied.calls) == commits
        assert not served.store.index.dirty
