"""The kernel's table of file locks: proc_locks(5).

A lock is listed with its file, as the device and the inode number of that. The device is left out
here: on btrfs and others stat(2) returns another one for the same file. So a lock of a file on
another file system, with the same inode number, may be taken for one of the file in question.

Example. Process 22292 has a store open for writing. The table has two lines of it::

    3: POSIX  ADVISORY  WRITE 22292 fe:00:2313447 22292 22292    its slot in LMDB's lock file
    5: FLOCK  ADVISORY  WRITE 22292 fe:00:2313446 0 EOF          the lock of the store
"""

from collections.abc import Iterator
from dataclasses import dataclass

from modelfs import proc


@dataclass(frozen=True, slots=True)
class FileLock:
    """One line of the table: a lock that a process has."""

    kind: str  # "POSIX" of fcntl(2), "FLOCK" of flock(2), or another
    is_exclusive: bool
    pid: int  # not positive if the lock belongs to no process that is seen here
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
                inode = int(place.rpartition(":")[2])
                yield FileLock(kind, access == "WRITE", int(pid), inode, int(start))
