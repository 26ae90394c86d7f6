"""Failed write-back: asking the kernel whether it has lost bytes of a file.

The kernel writes the pages of a file back by itself, some seconds after a program wrote them. If
that fails (a disk error, a full thin disk, a quota, a network disk), it takes the pages for clean
and drops them when memory is short. A read then returns older bytes, or zeros. The failure is kept
in the file's mapping, and every open descriptor gets it once: the errseq_t of Linux 4.13, see
fsync(2). A descriptor that is opened later gets it if no other descriptor has had it yet.

`sync_file_range(2)` with a wait reports the failure and, unlike fsync, starts no write. The kernel
notes a failure before it takes the page for clean. So if a read is followed by `take_error`, and
that returns 0, the bytes that were read are those that were written.

A file system that is stacked on another, such as overlayfs, or that sends bytes elsewhere, may keep
pages and errors in another mapping, and the call reports nothing. There, fdatasync asks.

Example. A program writes 1 MiB, the kernel fails to write it back, and drops the pages. pread
returns zeros. `take_error` then returns EIO, and returns 0 from then on: the caller has to remember
the answer.
"""

import ctypes
import errno
import os
from typing import Final

from modelfs.store.disk.allocation import BTRFS, EXT4, F2FS, TMPFS, XFS, file_system_type

# Behind the end of every file, so that the call waits for no page.
_BEHIND: Final = 1 << 62
_WAIT_BEFORE: Final = 1

_OWN_MAPPING: Final = frozenset({EXT4, XFS, BTRFS, F2FS, TMPFS})

_libc = ctypes.CDLL(None, use_errno=True)
_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def take_error(fd: int) -> int:
    """Return the errno of a write-back that failed since the last call, 0 if none did.

    The descriptor has to be open since before the bytes were written. Waits for no disk on ext4,
    xfs, btrfs, f2fs and tmpfs.
    """
    if answer_waits(fd):
        return _fdatasync(fd)
    if not _sync_file_range(fd, _BEHIND, 1, _WAIT_BEFORE):
        return 0
    error = ctypes.get_errno()
    return _fdatasync(fd) if error == errno.ENOSYS else error


def answer_waits(fd: int) -> bool:
    """Whether `take_error` waits for the disk: the file's pages may lie in another mapping."""
    # Not remembered by device: after an unmount the number belongs to another file system.
    return file_system_type(fd) not in _OWN_MAPPING


def _fdatasync(fd: int) -> int:
    try:
        os.fdatasync(fd)
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0
