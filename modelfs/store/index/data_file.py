"""The files of an LMDB environment: how long the data file is, and which blocks it has.

The data file is read through a mapping, so a read past its end is SIGBUS, which ends the process.
LMDB may leave the last pages of a commit unwritten if their content was not needed after all, so
each commit is followed by `DataFile.lengthen`.

A commit needs pages even when it only deletes, so the file has some on the disk ahead of its use.

Example. 100 pages of 4 KiB are in use, and the file ends after 98: a crash came before `lengthen`.
Two pages fewer than `LOOSE_PAGES` are missing, so the file is made as long as it should be, all
rows are read, and the index opens. If 70 pages were missing, or a row could not be read, it would
not.
"""

import contextlib
import ctypes
import fcntl
import os
from pathlib import Path
from typing import Final

DATA_FILE: Final = "data.mdb"
# How many pages at the end of the file may not have been written by a commit before a crash.
LOOSE_PAGES: Final = 64
# Room for some 250 readers.
LOCK_FILE: Final = "lock.mdb"
LOCK_SIZE: Final = 16 << 10
# ioctl_iflags(2)
FS_IOC_SETFLAGS: Final = 0x40086602
FS_NOCOW_FL: Final = 0x00800000
# The file has this many bytes on the disk that are not in use, so that deletes can be committed
# after other programs have filled the disk. Free pages inside count, but only beyond what is always
# behind all that is in use: a reader, such as fsck beside a mount, keeps the pages of its snapshot
# from being written to, and with them all that became free since.
AHEAD: Final = 4 << 20
AHEAD_BEHIND: Final = 2 << 20
AHEAD_STEP: Final = 256 << 10  # by which the file gets longer, at least
FALLOC_FL_KEEP_SIZE: Final = 1  # fallocate(2)
_libc = ctypes.CDLL(None)


class DataFile:
    """The file with LMDB's pages."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / DATA_FILE
        self._ahead = 0  # up to where the file has blocks on the disk

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def reach(self, size: int, used: int) -> None:
        """Make the file as long as the bytes in use, from `size` on. It never becomes shorter."""
        # Not truncate(2): a writer may have made it longer still.
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.posix_fallocate(fd, size, used - size)
        finally:
            os.close(fd)

    def lengthen(self, used: int, free: int) -> None:
        """Make the file as long as the bytes in use, and give it blocks for the next commits.

        Args:
            used: bytes up to the end of the last page in use.
            free: bytes of pages before that which are not in use.
        """
        if (size := self.size) < used:
            os.truncate(self.path, used)
        if self._ahead - used < AHEAD_BEHIND:
            behind = max(AHEAD - free, AHEAD_BEHIND + AHEAD_STEP)
            self._ahead = max(size, used) + behind
            allocate(self.path, self._ahead)

    def needs_blocks(self, used: int) -> bool:
        """Whether `lengthen` will look for blocks, and so needs to know the free pages."""
        return self._ahead - used < AHEAD_BEHIND


def prepare_lock_file(folder: Path) -> None:
    """Make LMDB's table of readers with all its blocks.

    LMDB writes it through a mapping. Where a write needs new blocks each time, as on btrfs, a full
    disk would make that SIGBUS, and no process could open the index any more.
    """
    path = folder / LOCK_FILE
    if not folder.is_dir() or path.exists():
        return
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(OSError):  # other file systems know no such flag, nor need it
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, FS_NOCOW_FL.to_bytes(8, "little"))
        os.posix_fallocate(fd, 0, LOCK_SIZE)
    finally:
        os.close(fd)


def allocate(path: Path, size: int) -> None:
    """Give a file its blocks up to `size`, without making it longer, if there is room."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        # What fails is tried at a later commit.
        _libc.fallocate(fd, FALLOC_FL_KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size))
    finally:
        os.close(fd)
