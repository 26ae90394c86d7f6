"""Opens of files: their replies, and opens that fail on the way."""

import os

import pyfuse3
import pytest
from pyfuse3 import FileInfo, FlagT, FUSEError, InodeT

from modelfs.errors import CorruptIndex
from modelfs.fs.host import session_io
from modelfs.store.index.tables import InodeNumber, Table
from tests.support.kernel_writes import Kernel
from tests.support.served_store import ASKED, Counting, Failing, Served


@pytest.fixture
def kernel(served: Served, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel that serves files itself."""
    kernel = Kernel()
    served.operations.passthrough._files = kernel  # type: ignore[assignment]
    monkeypatch.setattr(session_io, "back_next_open", lambda handle, number: None)
    monkeypatch.setattr(pyfuse3, "invalidate_inode", lambda inode, attr_only: None)
    return kernel


async def opened(served: Served, inode: InodeNumber, flags: int) -> FileInfo:
    return await served.operations.open(InodeT(inode), FlagT(flags), ASKED)


async def new_file(served: Served) -> InodeNumber:
    inode, handle = await served.created(b"f")
    await served.operations.release(handle)
    return inode


async def test_the_reply_names_the_backing_file(
    served: Served, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each open that the kernel serves has its handle and the number of the file."""
    backed = Counting(session_io.back_next_open)
    monkeypatch.setattr(session_io, "back_next_open", backed)
    inode = await new_file(served)
    backed.calls.clear()
    first, second = [await opened(served, inode, os.O_RDWR) for _ in range(2)]
    assert backed.calls == [(first.fh, 1), (second.fh, 1)]
    for info in (first, second):
        await served.operations.release(info.fh)
    assert (kernel.files, served.handles.is_open(inode)) == ({}, False)


async def test_a_durable_open_beside_another(served: Served, kernel: Kernel) -> None:
    """Before its reply the staging file is in the index."""
    inode = await new_file(served)
    info = await opened(served, inode, os.O_RDWR)
    assert not [*served.store.index.keys(Table.STAGED)]
    durable = await opened(served, inode, os.O_RDWR | os.O_SYNC)
    assert [*served.store.index.keys(Table.STAGED)]
    assert not served.store.index.dirty
    for each in (info, durable):
        await served.operations.release(each.fh)


async def test_an_open_that_fails_on_the_way(
    served: Served,
    kernel: Kernel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It leaves nothing open."""
    inode = await new_file(served)
    privileges = served.operations._privileges
    failing = Failing(privileges.opened, CorruptIndex("damaged"))
    monkeypatch.setattr(privileges, "opened", failing)
    with pytest.raises(FUSEError):
        await opened(served, inode, os.O_RDWR)
    caplog.clear()
    assert (kernel.files, served.handles.is_open(inode)) == ({}, False)
    assert not served.operations.passthrough.serves(inode)
