"""A plain folder shown by pyfuse3, with next to nothing behind it: the price of pyfuse3 alone.

As in the example that comes with pyfuse3, each request is a call of `os`, made on the thread of
the event loop, and the kernel keeps pages, but neither names nor attributes. For one user, without
links, special files and moved folders.
"""

import errno
import os
import stat
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import pyfuse3
import trio

P = ParamSpec("P")
R = TypeVar("R")
COPIED: Final = (
    *("st_mode", "st_nlink", "st_uid", "st_gid", "st_rdev", "st_size", "st_blksize", "st_blocks"),
    *("st_atime_ns", "st_mtime_ns", "st_ctime_ns"),
)


def replies(handler: Callable[P, Awaitable[R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Make a handler answer the errno of a call that failed."""

    @wraps(handler)
    async def wrapper(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return await handler(*arguments, **named)
        except OSError as exc:
            raise pyfuse3.FUSEError(exc.errno or errno.EIO) from exc

    return wrapper


def attributes(inode: int, found: os.stat_result) -> Any:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = inode
    entry.entry_timeout = entry.attr_timeout = 0
    for name in COPIED:
        setattr(entry, name, getattr(found, name))
    return entry


class Passthrough(pyfuse3.Operations):
    """The handlers. A handle is the descriptor of a file, or the inode of a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._paths: dict[int, str] = {pyfuse3.ROOT_INODE: str(folder)}
        self._inodes: dict[str, int] = {str(folder): pyfuse3.ROOT_INODE}
        self._last = int(pyfuse3.ROOT_INODE)
        self._lookups: dict[int, int] = {}

    def _below(self, parent: int, name: bytes) -> str:
        return os.path.join(self._paths[parent], os.fsdecode(name))

    def _entry(self, path: str) -> Any:
        """Return the attributes of a path, of which the kernel keeps the inode from now on."""
        found = os.lstat(path)
        inode = self._inodes.get(path)
        if inode is None:
            self._last = inode = self._last + 1
            self._inodes[path] = inode
            self._paths[inode] = path
        self._lookups[inode] = self._lookups.get(inode, 0) + 1
        return attributes(inode, found)

    # -- names

    @replies
    async def lookup(self, parent: int, name: bytes, ctx: Any = None) -> Any:
        return self._entry(self._below(parent, name))

    async def forget(self, inodes: Sequence[tuple[int, int]]) -> None:
        for inode, count in inodes:
            self._lookups[inode] -= count
            if not self._lookups[inode]:
                del self._lookups[inode]
                path = self._paths.pop(inode)
                if self._inodes.get(path) == inode:
                    del self._inodes[path]

    @replies
    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> Any:
        path = self._below(parent, name)
        os.mkdir(path, mode & ~ctx.umask)
        return self._entry(path)

    @replies
    async def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        path = self._below(parent, name)
        os.unlink(path)
        self._inodes.pop(path, None)

    @replies
    async def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        path = self._below(parent, name)
        os.rmdir(path)
        self._inodes.pop(path, None)

    @replies
    async def rename(
        self, old: int, name: bytes, new: int, new_name: bytes, flags: int, ctx: Any
    ) -> None:
        source, target = self._below(old, name), self._below(new, new_name)
        if flags or stat.S_ISDIR(
            os.lstat(source).st_mode
        ):  # the paths of all files below would change
            raise pyfuse3.FUSEError(errno.EINVAL)
        os.replace(source, target)
        self._inodes.pop(target, None)
        if source in self._inodes:
            inode = self._inodes[target] = self._inodes.pop(source)
            self._paths[inode] = target

    async def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    @replies
    async def readdir(self, inode: int, start: int, token: Any) -> None:
        names = sorted(os.listdir(self._paths[inode]))
        for number in range(start, len(names)):
            name = os.fsencode(names[number])
            entry = self._entry(self._below(inode, name))
            if not pyfuse3.readdir_reply(token, name, entry, number + 1):
                self._lookups[entry.st_ino] -= 1
                return

    # -- files

    @replies
    async def getattr(self, inode: int, ctx: Any = None) -> Any:
        return attributes(inode, os.lstat(self._paths[inode]))

    @replies
    async def setattr(self, inode: int, attr: Any, fields: Any, fh: Any, ctx: Any) -> Any:
        path = self._paths[inode]
        if fields.update_size:
            os.truncate(path, attr.st_size)
        if fields.update_mode:
            os.chmod(path, stat.S_IMODE(attr.st_mode))
        if fields.update_uid or fields.update_gid:
            owner = attr.st_uid if fields.update_uid else -1
            os.chown(path, owner, attr.st_gid if fields.update_gid else -1)
        if fields.update_atime or fields.update_mtime:
            found = os.stat(path)
            accessed = attr.st_atime_ns if fields.update_atime else found.st_atime_ns
            modified = attr.st_mtime_ns if fields.update_mtime else found.st_mtime_ns
            os.utime(path, ns=(accessed, modified))
        return attributes(inode, os.lstat(path))

    @replies
    async def open(self, inode: int, flags: int, ctx: Any) -> Any:
        return pyfuse3.FileInfo(fh=os.open(self._paths[inode], flags & ~os.O_DIRECT))

    @replies
    async def create(self, parent: int, name: bytes, mode: int, flags: int, ctx: Any) -> Any:
        path = self._below(parent, name)
        fd = os.open(path, flags & ~os.O_DIRECT | os.O_CREAT, mode & ~ctx.umask)
        return pyfuse3.FileInfo(fh=fd), self._entry(path)

    @replies
    async def read(self, fh: int, offset: int, size: int) -> bytes:
        return os.pread(fh, size, offset)

    @replies
    async def write(self, fh: int, offset: int, data: bytes) -> int:
        return os.pwrite(fh, data, offset)

    @replies
    async def fsync(self, fh: int, datasync: bool) -> None:
        os.fsync(fh)

    async def release(self, fh: int) -> None:
        os.close(fh)


def main() -> None:
    """Serve a folder at a mount point: the arguments of the process, until it is unmounted."""
    folder, mount_point = sys.argv[1:]
    pyfuse3.init(
        Passthrough(Path(folder)), mount_point, {"fsname=passthrough", "default_permissions"}
    )
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close()
