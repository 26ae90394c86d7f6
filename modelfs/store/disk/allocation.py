"""Blocks of a disk: their allocation, files without a name, and the type of a file system.

A nameless file (O_TMPFILE in open(2)) belongs to the process that opened it. The file system takes
its blocks back when it is closed, also by the end of a process that was killed.

Example. A process opens a nameless file in the folder of a store and allocates 32 MiB: df(1) shows
32 MiB less, du(1) and ls(1) show nothing. It is killed, and df(1) shows the 32 MiB again.
"""

import ctypes
import errno
import os
import sys
import weakref
from functools import partial
from typing import Final

from modelfs.store.disk.closer import closer

# Types of file systems, of statfs(2) and linux/magic.h.
EXT4: Final = 0xEF53
XFS: Final = 0x58465342
BTRFS: Final = 0x9123683E
F2FS: Final = 0xF2F52010
BCACHEFS: Final = 0xCA451A4E
TMPFS: Final = 0x01021994
FUSE: Final = 0x65735546

# The errnos of a disk without room, and of a quota that is used up.
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})

# Flags of fallocate(2).
KEEP_SIZE: Final = 1
PUNCH_HOLE: Final = 2

# A file system that allocates less has only looked whether there is room.
HELD_PART: Final = 0.9

_libc = ctypes.CDLL(None, use_errno=True)


def file_system_type(fd: int) -> int:
    """Return the type of the file system of an open file or folder, 0 if it is not known."""
    buffer = ctypes.create_string_buffer(512)  # a `struct statfs`, which begins with the type
    if _libc.fstatfs(fd, buffer):
        return 0
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder)


def allocate(fd: int, size: int, mode: int = 0) -> None:
    """Give a file blocks up to an offset: fallocate(2).

    Not `os.posix_fallocate`: where the file system has no such call, that writes every block.

    Raises:
        OSError: there is no room, or the file system cannot do this.
    """
    _fallocate(fd, mode, 0, size)


def punch(fd: int, start: int, stop: int) -> None:
    """Make a range of a file a hole.

    Raises:
        OSError: the disk failed, or the file system cannot do this.
    """
    _fallocate(fd, PUNCH_HOLE | KEEP_SIZE, start, stop - start)


def _fallocate(fd: int, mode: int, start: int, size: int) -> None:
    while _libc.fallocate(fd, mode, ctypes.c_int64(start), ctypes.c_int64(size)):
        if (number := ctypes.get_errno()) != errno.EINTR:
            raise OSError(number, os.strerror(number))


class NamelessFile:
    """An open file without a name, with blocks on the disk. It is closed with its last reference.

    Attributes:
        fd: its descriptor.
        size: the bytes that it takes on the disk.
    """

    __slots__ = ("__weakref__", "_close", "fd", "size")

    def __init__(self, folder: str, size: int) -> None:
        """Open a file on the file system of a folder, and allocate `size` bytes.

        Raises:
            OSError: there is no room, no permission, or the file system has no such files.
        """
        opened: list[int] = []
        self._close = closer(opened)
        weakref.finalize(self, self._close)
        flags = os.O_TMPFILE | os.O_RDWR | os.O_EXCL | os.O_CLOEXEC
        opened.extend(map(partial(os.open, mode=0o600), (folder,), (flags,)))
        self.fd = opened[0]
        allocate(self.fd, size)
        self.size = os.fstat(self.fd).st_blocks * 512

    def close(self) -> None:
        """Close it, once: the file system takes its blocks back at once."""
        self._close()


def held_room(folder: str, size: int) -> NamelessFile | None:
    """Hold so many bytes of a file system in a nameless file.

    Returns:
        The file; None if the file system does not hold them. Some, such as ZFS, only look whether
        there is room, and on tmpfs it would take memory.

    Raises:
        OSError: as for `NamelessFile`.
    """
    file = NamelessFile(folder, size)
    if file.size >= size * HELD_PART and file_system_type(file.fd) != TMPFS:
        return file
    file.close()
    return None


def is_full(folder: str, size: int) -> bool:
    """Whether the file system of a folder, or a quota, has no room for `size` bytes.

    False if it cannot be found out: no permission, or no files without a name.
    """
    try:
        NamelessFile(folder, size).close()
    except OSError as exc:
        return exc.errno in FULL
    return False
