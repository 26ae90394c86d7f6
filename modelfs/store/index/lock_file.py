"""LMDB's lock file: the slots of read transactions, in a table that all processes share.

While a transaction reads a snapshot, no commit reuses the snapshot's pages. A killed process leaves
its slot in the table, which would keep these pages for ever. So each commit frees the slots of
processes that ended. A read-only environment holds a slot only during a transaction. So the index
grows only during a long transaction, such as that of `modelfs inspect`, or one whose process is
stopped (SIGSTOP, a debugger): commits meanwhile reuse no page that they free.

To LMDB, a process has ended when it has no lock on a byte of the lock file. But such a lock is lost
as soon as the process opens and closes that file, for example to copy it: fcntl(2). Then LMDB would
free the slot of a living process, whose transaction reads pages that are written. So `free_slots`
frees none while a process has a slot, but no lock, and has the file mapped. A process in another
container is invisible in /proc, and protected by its lock alone.

LMDB writes the lock file through a mapping, also to read. A file system that writes each block to a
new place, as btrfs does, reserves room at the first write to a page since its last write-back, even
if the file has its blocks and is not to be copied (chattr +C). If a disk quota or the disk has no
room, the kernel sends SIGBUS, and the process ends. So `check_room` looks for room first. A process
that has the store open for writing holds some (see `disk.ballast`).

Example. Process A reads at commit 7 and is killed. The writer's commit 8 reuses no page of
snapshot 7, and then finds that A has ended and frees its slot. Commit 9 may reuse them.
"""

import contextlib
import fcntl
import os
from typing import Final

import lmdb

from modelfs import proc
from modelfs.errors import StoreFull
from modelfs.file_locks import locks
from modelfs.store.disk.allocation import BCACHEFS, BTRFS, file_system_type, is_full
from modelfs.store.disk.directory import SHARED_FILE, Directory

LMDB_LOCK_FILE: Final = SHARED_FILE
# Room for some 250 read transactions at a time.
LOCK_SIZE: Final = 16 << 10
# Room for the file's pages, and for what btrfs reserves beside them.
PROBE_SIZE: Final = 64 << 10
COPY_ON_WRITE: Final = frozenset({BTRFS, BCACHEFS})
# ioctl_iflags(2)
FS_IOC_SETFLAGS: Final = 0x40086602
FS_NOCOW_FL: Final = 0x00800000


def may_lock(index: Directory) -> bool:
    """Whether an index has a lock file, and this process may write it.

    Otherwise its transactions have no slots, and the caller has to exclude writers during each. A
    reader does not create the file: it would be the reader's, and keep the store's owner out.

    Raises:
        StoreNotTrusted: it is not a regular file of the store's owner.
    """
    try:
        index.status(LMDB_LOCK_FILE)
    except OSError:
        return False
    return os.access(LMDB_LOCK_FILE, os.W_OK, dir_fd=index.fd, effective_ids=True)


def prepare_lock_file(index: Directory) -> None:
    """Create the lock file of an index with all its blocks, if it does not exist."""
    if index.exists(LMDB_LOCK_FILE):
        return
    with index.opened(LMDB_LOCK_FILE, os.O_RDWR | os.O_CREAT) as fd:
        with contextlib.suppress(OSError):  # other file systems neither have nor need this flag
            fcntl.ioctl(fd, FS_IOC_SETFLAGS, FS_NOCOW_FL.to_bytes(8, "little"))
        os.posix_fallocate(fd, 0, LOCK_SIZE)


def check_room(index: Directory) -> None:
    """Check that LMDB can write the lock file of an index, before it opens it.

    Elsewhere the file has its blocks, so a full disk is no problem. A process that may not create
    a file in the folder finds nothing out.

    Raises:
        StoreFull: the disk has no room for the file's pages.
    """
    if file_system_type(index.fd) not in COPY_ON_WRITE:
        return
    if is_full(index.link, PROBE_SIZE):
        raise StoreFull(
            f"no space left on the disk under {index.path.parent}, or in its disk quota: "
            f"{index.path / LMDB_LOCK_FILE} cannot be written, so the index cannot be read"
        )


def free_slots(env: lmdb.Environment, index: Directory) -> None:
    """Free the slots of processes that ended, unless LMDB would free a living process's, too."""
    # A header, and a line for each slot: PID, thread, number of the snapshot.
    slots = env.readers().splitlines()[1:]
    owners = {int(slot.split()[0]) for slot in slots} - {os.getpid()}
    living = {pid for pid in owners if _has_mapped_lock_file(pid)}
    if living != owners and living <= _pids_with_lock(index):
        env.reader_check()


def _has_mapped_lock_file(pid: int) -> bool:
    try:
        try:
            return f"/{LMDB_LOCK_FILE}" in proc.read(pid, "maps")
        except PermissionError:  # another user's; a thread of the kernel has no command line
            return bool(proc.read(pid, "cmdline"))
    except OSError:
        return False


def _pids_with_lock(index: Directory) -> set[int]:
    """Return the processes that have locked the byte of their PID."""
    inode = index.status(LMDB_LOCK_FILE).st_ino
    with contextlib.suppress(OSError):
        return {
            lock.pid
            for lock in locks()
            if lock.kind == "POSIX" and lock.is_exclusive
            if lock.inode == inode and lock.start == lock.pid
        }
    return set()
