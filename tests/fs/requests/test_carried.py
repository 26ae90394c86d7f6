"""Carried requests: their bodies, their replies, and their errors."""

import errno
import os
import struct

import pytest
from pyfuse3 import InodeT, XAttrNameT

from modelfs.fs.host import session_io
from tests.support.served_store import ASKED, READ, Served, refused
from tests.support.stores import CHUNK, noise


class Kernel:
    """Sends carried requests, in the place of the callbacks."""

    def __init__(self, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        self._operations = served.operations
        self._carried: tuple[int, bytes] | None = None
        monkeypatch.setattr(session_io, "take_carried", self._take)

    def _take(self) -> tuple[int, bytes] | None:
        carried, self._carried = self._carried, None
        return carried

    async def ask(self, opcode: int, layout: str, *fields: int) -> bytes:
        """Send a request, and return the body of the reply."""
        self._carried = opcode, struct.pack(layout, *fields)
        return await self._operations.getxattr(InodeT(1), XAttrNameT(b"carried"), ASKED)

    async def lseek(self, handle: int, offset: int, whence: int) -> int:
        reply = await self.ask(session_io.LSEEK, "=QQI4x", handle, offset, whence)
        return int.from_bytes(reply, "little")


@pytest.fixture
def kernel(served: Served, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    return Kernel(served, monkeypatch)


async def test_lseek(served: Served, kernel: Kernel) -> None:
    """LSEEK has a handle, an offset and a kind, and gets an offset."""
    inode = await served.written(b"f", noise(CHUNK))
    await served.set(inode, size=2 * CHUNK)
    info = await served.operations.open(InodeT(inode), READ, ASKED)
    assert await kernel.lseek(info.fh, 5, os.SEEK_DATA) == 5
    assert await kernel.lseek(info.fh, 5, os.SEEK_HOLE) == CHUNK
    with refused(errno.ENXIO):
        await kernel.lseek(info.fh, CHUNK, os.SEEK_DATA)
    with refused(errno.EINVAL):
        await kernel.lseek(info.fh + 1, 0, os.SEEK_DATA)


async def test_fallocate(served: Served, kernel: Kernel) -> None:
    """FALLOCATE has a handle, an offset, a length and a mode, and gets an empty reply."""
    inode, handle = await served.created(b"f", b"x" * CHUNK)
    layout = "=QQQI4x"
    assert await kernel.ask(session_io.FALLOCATE, layout, handle, 100, 2 * CHUNK, 0) == b""
    assert served.store.contents.node(inode).size == 100 + 2 * CHUNK
    assert await kernel.ask(session_io.FALLOCATE, layout, handle, 5, 10, 3) == b""
    assert served.store.contents.read(inode, 4, 12) == b"x" + bytes(10) + b"x"
    with refused(errno.EOPNOTSUPP):
        await kernel.ask(session_io.FALLOCATE, layout, handle, 0, CHUNK, 8)


async def test_copy_file_range(served: Served, kernel: Kernel) -> None:
    """COPY_FILE_RANGE has two handles with offsets, and a length; the reply has a length."""
    source = await served.chunked(b"f", noise(CHUNK))
    info = await served.operations.open(InodeT(source), READ, ASKED)
    inode, handle = await served.created(b"g", b"x" * 10)
    fields = info.fh, 5, inode, handle, 3, 1 << 40, 0
    reply = await kernel.ask(session_io.COPY_FILE_RANGE, "=QQQQQQQ", *fields)
    assert reply == struct.pack("=II", CHUNK - 5, 0)
    assert await served.content(inode) == b"xxx" + noise(CHUNK)[5:]
    fields = info.fh, 5, inode, handle, 3, 0, 0
    assert await kernel.ask(session_io.COPY_FILE_RANGE, "=QQQQQQQ", *fields) == bytes(8)
    with refused(errno.EINVAL):
        await kernel.ask(session_io.COPY_FILE_RANGE, "=QQQQQQQ", handle, 0, inode, handle, 1, 5, 0)


async def test_an_attribute_with_the_name_of_the_carrier(served: Served, kernel: Kernel) -> None:
    """Without a carried request it is an attribute, of a kind that no file has."""
    with refused(errno.EOPNOTSUPP):
        await served.operations.getxattr(InodeT(1), XAttrNameT(b"carried"), ASKED)
