"""A disk that keeps a record of every write and flush.

The disk is one file in a FUSE mount, below a loop device; the kernel's own file system on that
device decides when to write and to flush. Clients write their statements to a second file there, so
that they are in the same record: a statement made before the answer to a flush comes before that
flush.

A record entry, little-endian::

    0   bytes 1   what    W a write, F a flush, S a statement
    1   u64       offset  on the disk, of a write
    9   u32       size    of the bytes that follow
"""

import errno
import os
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyfuse3
import trio

HEAD: Final = struct.Struct("<cQI")
WRITE: Final = b"W"
FLUSH: Final = b"F"
STATEMENT: Final = b"S"

DISK: Final = "disk"
STATEMENTS: Final = "statements"
_INODES: Final = {DISK.encode(): 2, STATEMENTS.encode(): 3}


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a record; its bytes are at `at` in the record's file."""

    what: bytes
    offset: int
    at: int
    size: int


def entries(record: Path) -> Iterator[Entry]:
    at = 0
    with record.open("rb") as file:
        while len(head := file.read(HEAD.size)) == HEAD.size:
            what, offset, size = HEAD.unpack(head)
            at += HEAD.size
            yield Entry(what, offset, at, size)
            at += size
            file.seek(at)


class _Disk(pyfuse3.Operations):
    # No handler awaits, so the order of the record is that of the answers.

    def __init__(self, image: int, record: int) -> None:
        super().__init__()
        self._image = image
        self._size = os.fstat(image).st_size
        self._record = record

    def _note(self, what: bytes, offset: int, data: bytes) -> None:
        os.writev(self._record, [HEAD.pack(what, offset, len(data)), data])

    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = inode
        folder = inode == pyfuse3.ROOT_INODE
        attributes.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o700 if folder else stat.S_IFREG | 0o600)
        attributes.st_size = self._size if inode == _INODES[DISK.encode()] else 0
        attributes.entry_timeout = attributes.attr_timeout = 3600
        return attributes

    async def setattr(
        self,
        inode: pyfuse3.InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: pyfuse3.FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        return await self.getattr(inode)

    async def lookup(
        self,
        parent_inode: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        ctx: pyfuse3.RequestContext | None = None,
    ) -> pyfuse3.EntryAttributes:
        if name not in _INODES:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(pyfuse3.InodeT(_INODES[name]))

    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        # Past the page cache, so that a write arrives when the file system above makes it.
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode), direct_io=True)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        return os.pread(self._image, size, off)

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        if fh == _INODES[STATEMENTS.encode()]:
            self._note(STATEMENT, 0, buf)
        else:
            self._note(WRITE, off, buf)
            os.pwrite(self._image, buf, off)
        return len(buf)

    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        if fh == _INODES[DISK.encode()]:
            self._note(FLUSH, 0, b"")


def _serve(image: Path, folder: Path, record: Path, ready: int) -> None:
    record_fd = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    pyfuse3.init(_Disk(os.open(image, os.O_RDWR), record_fd), str(folder), {"fsname=recorder"})
    os.write(ready, b"ready")
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


@contextmanager
def recorded(image: Path, folder: Path, record: Path) -> Iterator[None]:
    """Serve a disk image as `folder`/disk while the block lasts, and record its requests."""
    folder.mkdir()
    readable, writable = os.pipe()
    if not (server := os.fork()):
        try:
            _serve(image, folder, record, writable)
        finally:
            os._exit(0)
    os.close(writable)
    if not os.read(readable, 5):
        raise OSError("the recording disk cannot be mounted")
    os.close(readable)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)
        os.waitpid(server, 0)
