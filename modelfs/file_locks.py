"""The kernel's table of file locks: proc_locks(5).

A lock is listed with its file, as the device and the inode number of that. The device is the one of
the file system. On some, such as btrfs, stat(2) returns another one for the same file.

Example. Process 22292 has a store open for writing. The table has two lines of it::

    3: POSIX  ADVISORY  WRITE 22292 fe:00:2313447 22292 22292    its slot in LMDB's lock file
    5: FLOCK  ADVISORY  WRITE 22292 fe:00:2313446 0 EOF          the lock of the store
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from modelfs import proc


@dataclass(frozen=True, slots=True)
class FileLock:
    """One line of the table: a lock that a process has."""

    kind: str  # "POSIX" of fcntl(2), "FLOCK" of flock(2), or another
    is_exclusive: bool
    pid: int  # -1 if the lock belongs to no process
    device: int  # of the file system, as `st_dev`
    inode: int
    start: int  # of the locked bytes


def locks() -> Iterator[FileLock]:
    """Yield the locks of files. A lock that a process waits for is left out.

    Raises:
        OSError: the table cannot be read.
    """
    for line in proc.lines("locks"):
        match line.split():
            case [_, kind, _, access, pid, place, start, _] if place.count(":") == 2:
                major, minor, inode = place.split(":")
                device = os.makedev(int(major, 16), int(minor, 16))
                yield FileLock(kind, access == "WRITE", int(pid), device, int(inode), int(start))
