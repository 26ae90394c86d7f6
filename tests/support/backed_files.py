"""A file system of one folder whose files are plain files of another, for tests of passthrough.

    python -m tests.support.backed_files MOUNTPOINT FOLDER

The attribute `user.way` of the root is how the next opens are answered:

    cached   reads and writes come here, and the kernel keeps pages
    direct   reads and writes come here
    passed   the backing file is in FOLDER; all opens of an inode have one number
    fresh    the same with a number of its own for each open

and `user.counts` is a JSON object of how many reads, writes and releases came.
"""

import errno
import json
import os
import stat
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from modelfs.fs.host import session_io

session_io.load(passthrough=True)

import pyfuse3  # noqa: E402 - the session's callbacks have to be loaded before it

from modelfs.fs.host.backing import BackingFiles  # noqa: E402
from tests.support.serve_fuse import serve  # noqa: E402


class BackedFiles(pyfuse3.Operations):
    """The handlers. A handle is a descriptor of the plain file."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._names: dict[bytes, int] = {}
        self._way = "cached"
        self._counts: Counter[str] = Counter()
        self._numbers: dict[int, int] = {}  # of registered files, by inode
        self._opens: dict[int, tuple[int, int | None]] = {}  # inode and own number, by handle
        self.backing: BackingFiles

    def begin(self) -> None:
        """Find the device of the mount."""
        self.backing = BackingFiles()

    def _path(self, inode: int) -> Path:
        return self._folder / str(inode)

    async def getattr(self, inode: int, ctx: Any = None) -> Any:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino, entry.st_nlink = inode, 1
        entry.attr_timeout = entry.entry_timeout = 300
        entry.st_mode = stat.S_IFDIR | 0o755
        if inode != pyfuse3.ROOT_INODE:
            found = self._path(inode).stat()
            entry.st_mode, entry.st_size = found.st_mode, found.st_size
            entry.st_blocks, entry.st_mtime_ns = found.st_blocks, found.st_mtime_ns
        return entry

    async def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
        if fields.update_size:
            os.truncate(self._path(inode), attr.st_size)
        return await self.getattr(inode)

    async def lookup(self, parent: int, name: bytes, ctx: Any = None) -> Any:
        if name not in self._names:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(self._names[name])

    async def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        inode = self._names[name] = len(self._names) + 2
        self._path(inode).touch()
        entry = await self.getattr(inode)
        return self._opened(inode, flags), entry

    async def open(self, inode: int, flags: int, ctx: Any) -> Any:
        return self._opened(inode, flags)

    def _opened(self, inode: int, flags: int) -> Any:
        # Its own descriptor counts for a lease, too.
        access = os.O_RDONLY if flags & os.O_ACCMODE == os.O_RDONLY else os.O_RDWR
        fd = os.open(self._path(inode), access | flags & os.O_TRUNC)
        try:
            number = self._number(inode)
        except OSError as exc:
            os.close(fd)
            raise pyfuse3.FUSEError(exc.errno or errno.EIO) from exc
        self._opens[fd] = inode, number if self._way == "fresh" else None
        if number:
            session_io.back_next_open(fd, number)
        is_direct = self._way == "direct"
        return pyfuse3.FileInfo(fh=fd, direct_io=is_direct, keep_cache=False)

    def _number(self, inode: int) -> int:
        if self._way == "passed" and inode in self._numbers:
            return self._numbers[inode]
        if self._way not in ("passed", "fresh"):
            return 0
        fd = os.open(self._path(inode), os.O_RDONLY)
        try:
            number = self.backing.register(fd)
        finally:
            os.close(fd)
        if self._way == "passed":
            self._numbers[inode] = number
        return number

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        self._counts["read"] += 1
        return os.pread(fh, size, offset)

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        self._counts["write"] += 1
        return os.pwrite(fh, data, offset)

    async def fsync(self, fh: int, datasync: bool) -> None:
        os.fsync(fh)

    async def release(self, fh: int) -> None:
        self._counts["release"] += 1
        inode, own = self._opens.pop(fh)
        os.close(fh)
        if own:
            self.backing.unregister(own)
        if inode in self._numbers and all(inode != other for other, _ in self._opens.values()):
            self.backing.unregister(self._numbers.pop(inode))

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        self._way = value.decode()

    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        if name != b"user.counts":
            raise pyfuse3.FUSEError(errno.ENODATA)
        return json.dumps(self._counts).encode()


def main() -> None:
    mount_point, folder = sys.argv[1:]
    files = BackedFiles(Path(folder))
    serve(files, mount_point, "backed", files.begin)


if __name__ == "__main__":
    main()
