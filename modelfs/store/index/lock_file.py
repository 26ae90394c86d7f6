"""LMDB's lock file: the slots of read transactions, in a table that all processes share.

While a transaction reads a snapshot, no commit reuses the snapshot's pages. A killed process leaves
its slot in the table, which would keep these pages for ever. So each commit frees the slots of
processes that ended. A read-only environment holds a slot only during a transaction. So the index
grows only during a long transaction, such as a report's or fsck's, or one whose process is stopped
(SIGSTOP, a debugger): commits meanwhile reuse no page that they free.

Example. Process A reads at commit 7 and is killed. The writer's commit 8 reuses no page of
snapshot 7, and then finds that A has ended and frees its slot. Commit 9 may reuse them.
"""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Final

LOCK_FILE: Final = "lock.mdb"
# Room for some 250 read transactions at a time.
LOCK_SIZE: Final = 16 << 10
# ioctl_iflags(2)
FS_IOC_SETFLAGS: Final = 0x40086602
FS_NOCOW_FL: Final = 0x00800000


def may_lock(index: Path) -> bool:
    """Whether an index has a lock file, and this process may write it.

    Otherwise its transactions have no slots, and the caller has to exclude writers during each. A
    reader does not create the file: it would be the reader's, and keep the store's owner out.
    """
    return os.access(index / LOCK_FILE, os.W_OK, effective_ids=True)


def prepare_lock_file(index: Path) -> None:
    """Create the lock file of an index with all its blocks, if it does not exist.

    LMDB writes it through a mapping. On a file system that allocates new blocks for each write, as
    btrfs does, such a write on a full disk raises SIGBUS, and no process could open the index.
    """
    path = index / LOCK_FILE
    if not index.is_dir() or path.exists():
        return
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with contextlib.suppress(OSError):  # other file systems neither have nor need this flag
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, FS_NOCOW_FL.to_bytes(8, "little"))
        os.posix_fallocate(fd, 0, LOCK_SIZE)
    finally:
        os.close(fd)
