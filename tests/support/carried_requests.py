"""A file system of one file that replies to carried requests, for tests of the callbacks.

    python -m tests.support.carried_requests MOUNTPOINT

The reply to a request depends on its first offset: the attribute `user.OFFSET` of the root has the
errno, or the number that is the body of the reply. With the number -1 the request waits until the
attribute is set again. Those that came so far are in `user.seen`, a JSON list of opcodes and
offsets.
"""

import errno
import json
import stat
import struct
import sys
from typing import Any

from modelfs.fs.host import session_io

session_io.load()

import pyfuse3  # noqa: E402 - the session's callbacks have to be loaded before it
import trio  # noqa: E402

from tests.support.serve_fuse import serve  # noqa: E402

FILE = 2


class CarriedRequests(pyfuse3.Operations):
    """The handlers."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[tuple[int, int]] = []
        self._replies: dict[bytes, int] = {}
        self._changed = trio.Event()

    async def getattr(self, inode: int, ctx: Any = None) -> Any:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_nlink = inode, 1
        entry.st_mode = stat.S_IFREG | 0o644 if inode == FILE else stat.S_IFDIR | 0o755
        entry.st_size = 1 << 20
        entry.attr_timeout = entry.entry_timeout = 300
        return entry

    async def lookup(self, parent: int, name: bytes, ctx: Any = None) -> Any:
        if name != b"file":
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(FILE)

    async def open(self, inode: int, flags: int, ctx: Any) -> Any:
        return pyfuse3.FileInfo(fh=FILE)

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        return bytes(size)

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        self._replies[name.removeprefix(b"user.")] = int(value)
        self._changed.set()
        self._changed = trio.Event()

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        if (carried := session_io.take_carried()) is not None:
            return await self._answer(*carried)
        if name == b"user.seen":
            return json.dumps(self._seen).encode()
        raise pyfuse3.FUSEError(errno.ENODATA)

    async def _answer(self, opcode: int, body: bytes) -> bytes:
        (offset,) = struct.unpack_from("=Q", body, 8)
        self._seen.append((opcode, offset))
        while (number := self._replies.get(b"%d" % offset, 0)) < 0:
            await self._changed.wait()
        if 0 < number < 4096:
            raise pyfuse3.FUSEError(number)
        return b"" if opcode == session_io.FALLOCATE else struct.pack("=Q", number)


def carry() -> None:
    session_io.carry(session_io.FALLOCATE, session_io.LSEEK, session_io.COPY_FILE_RANGE)


if __name__ == "__main__":
    serve(CarriedRequests(), sys.argv[1], "carried", carry)
