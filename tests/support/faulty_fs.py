"""A disk that fails on command: a folder shown once more through FUSE, with faults.

Run it as `python faulty_fs.py FOLDER MOUNTPOINT CONTROL`. Each line of CONTROL is a fault, and a
call that matches it fails with its errno::

    CALL ERRNO PART [STOP]

CALL is read, write, fsync, create, unlink or truncate; PART is a part of the path; with STOP only
calls that begin before that offset fail. With `PART` as ERRNO a call transfers half of its bytes.
"""

import errno
import os
import sys
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)


class Faulty(pyfuse3.Operations):
    """Passes calls on to a folder, or fails them."""

    def __init__(self, folder: Path, control: Path) -> None:
        super().__init__()
        self._paths = {pyfuse3.ROOT_INODE: folder}
        self._control = control
        self._open: dict[int, Path] = {}

    def _fault(self, call: str, path: Path, offset: int = 0) -> bool:
        """Raise if a fault matches; return whether to do half only."""
        for line in self._control.read_text().splitlines():
            name, number, part, *stop = line.split()
            if name != call or part not in str(path) or (stop and offset >= int(stop[0])):
                continue
            if number == "PART":
                return True
            raise FUSEError(getattr(errno, number))
        return False

    def _path(self, folder: InodeT, name: FileNameT) -> Path:
        return self._paths[folder] / os.fsdecode(name)

    def _entry(self, path: Path, fd: int | None = None) -> EntryAttributes:
        try:
            found = os.lstat(path) if fd is None else os.fstat(fd)
        except OSError as exc:
            raise FUSEError(exc.errno or errno.EIO) from exc
        entry = EntryAttributes()
        for name in ("ino", "mode", "nlink", "uid", "gid", "rdev", "size", "blksize", "blocks"):
            setattr(entry, f"st_{name}", getattr(found, f"st_{name}"))
        for name in ("atime", "mtime", "ctime"):
            setattr(entry, f"st_{name}_ns", getattr(found, f"st_{name}_ns"))
        entry.entry_timeout = entry.attr_timeout = 0
        if path == self._paths[pyfuse3.ROOT_INODE]:
            entry.st_ino = pyfuse3.ROOT_INODE
        else:
            self._paths[InodeT(found.st_ino)] = path
        return entry

    def _opened(self, path: Path, flags: int) -> FileHandleT:
        try:
            # The kernel applies O_APPEND itself, and may read from a file that is open for writing.
            fd = os.open(path, flags & ~(os.O_APPEND | os.O_WRONLY) | os.O_RDWR, 0o600)
        except OSError as exc:
            raise FUSEError(exc.errno or errno.EIO) from exc
        self._open[fd] = path
        return FileHandleT(fd)

    # -- names

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return self._entry(self._path(parent_inode, name))

    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        path = self._paths[inode]
        fds = [fd for fd, opened in self._open.items() if opened == path]
        return self._entry(path, fds[0] if fds else None)

    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        os.mknod(self._path(parent_inode, name), mode, rdev)
        return self._entry(self._path(parent_inode, name))

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        self._path(parent_inode, name).mkdir(mode)
        return self._entry(self._path(parent_inode, name))

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        path = self._path(parent_inode, name)
        self._fault("unlink", path)
        path.unlink()

    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        folder = self._paths[InodeT(fh)]
        for number, path in enumerate(sorted(folder.iterdir())[start_id:], start_id + 1):
            name = FileNameT(os.fsencode(path.name))
            if not pyfuse3.readdir_reply(token, name, self._entry(path), number):
                return

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        self._fault("fsync", self._paths[InodeT(fh)])

    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        path = self._paths[inode]
        if fields.update_size:
            self._fault("truncate", path)
            os.truncate(path if fh is None else fh, attr.st_size)
        if fields.update_mode:
            path.chmod(attr.st_mode & 0o7777)
        return self._entry(path, fh)

    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        found = os.statvfs(self._paths[pyfuse3.ROOT_INODE])
        data = StatvfsData()
        for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail"):
            setattr(data, f"f_{name}", getattr(found, f"f_{name}"))
        data.f_namemax = 255
        return data

    # -- files

    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        path = self._path(parent_inode, name)
        self._fault("create", path)
        handle = self._opened(path, flags | os.O_CREAT)
        return FileInfo(fh=handle), self._entry(path)

    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        return FileInfo(fh=self._opened(self._paths[inode], flags & ~os.O_CREAT), keep_cache=True)

    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        half = self._fault("read", self._open[fh], off)
        return os.pread(fh, (size + 1) // 2 if half else size, off)

    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        half = self._fault("write", self._open[fh], off)
        return os.pwrite(fh, buf[: (len(buf) + 1) // 2] if half else buf, off)

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        self._fault("fsync", self._open[fh])

    async def release(self, fh: FileHandleT) -> None:
        del self._open[fh]
        os.close(fh)


def main(folder: Path, mountpoint: Path, control: Path) -> None:
    pyfuse3.init(Faulty(folder, control), str(mountpoint), {"fsname=faulty"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
