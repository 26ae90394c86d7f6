"""Changes that wait because commits or flushes do not keep up, and those that are refused."""

import errno
import os
from collections.abc import Awaitable, Callable
from typing import Final

import pytest
from pyfuse3 import FileNameT, FlagT, InodeT, XAttrNameT

from modelfs.errors import StoreFull
from modelfs.fs.background import gate
from modelfs.store.index.tables import InodeNumber
from tests.support.served_store import (
    ASKED,
    DATA,
    MODE,
    TOP,
    WRITE,
    Counting,
    Failing,
    Served,
    folder,
    refused,
    rename,
)
from tests.support.stores import staged_of


@pytest.fixture
def served(served: Served) -> Served:
    """A served store that holds no room, so that a commit that fails is not repeated."""
    served.store.space.close()
    return served


async def test_many_changes_wait_for_a_commit(
    served: Served, applied: Counting[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes that no commit has made durable have a bound in memory; the next request commits."""
    monkeypatch.setattr(gate, "BYTES_MAX", 100_000)
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
    monkeypatch.setattr(gate, "AGE_MAX", 0.0)
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
    apply = served.store.index.rows.write
    failing = Failing(apply, error, *range(1, 100))
    monkeypatch.setattr(gate, "AGE_MAX", 0.0)
    monkeypatch.setattr(served.store.index.rows, "write", failing)
    if change in FREEING and isinstance(error, StoreFull):
        await CHANGES[change](served, inode)
    else:
        with refused(error.errno or 0):
            await CHANGES[change](served, inode)
        tries = failing.calls
        with refused(error.errno or 0):  # at once, without another attempt
            await CHANGES[change](served, inode)
        assert failing.calls == tries
    monkeypatch.setattr(served.store.index.rows, "write", apply)
    monkeypatch.setattr(gate, "FAILED_SECONDS", 0.0)
    if not (change in FREEING and isinstance(error, StoreFull)):
        await CHANGES[change](served, inode)
    caplog.clear()
