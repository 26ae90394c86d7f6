"""Failed write-back: asking the kernel whether it has lost bytes of a file.

The kernel writes the pages of a file back by itself, some seconds after a program wrote them. If
that fails (a disk error, a full thin disk, a quota, a network disk), it takes the pages for clean
and drops them when memory is short. A read then returns older bytes, or zeros. The failure is kept
in the file's mapping, and every open descriptor gets it once: the errseq_t of Linux 4.13, see
fsync(2). A descriptor that is opened later gets it if no other descriptor has had it yet.

`sync_file_range(2)` with a wait reports the failure and, unlike fsync, starts no write. The kernel
notes a failure before it takes the page for clean. So if a read is followed by `take_error`, and
that returns 0, the bytes that were read are those that were written.

Example. A program writes 1 MiB, the kernel fails to write it back, and drops the pages. pread
returns zeros. `take_error` then returns EIO, and returns 0 from then on: the caller has to remember
the answer.
"""

import ctypes
import errno
import os
from typing import Final

# Behind the end of every file, so that the call waits for no page.
_BEHIND: Final = 1 << 62
_WAIT_BEFORE: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)
_sync_file_range = _libc.sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


def take_error(fd: int) -> int:
    """Return the errno of a write-back that failed since the last call, 0 if none did.

    The descriptor has to be open since before the bytes were written. Waits for no disk.
    """
    if not _sync_file_range(fd, _BEHIND, 1, _WAIT_BEFORE):
        return 0
    error = ctypes.get_errno()
    if error != errno.ENOSYS:
        return error
    try:
        os.fdatasync(fd)  # a sandbox without the call
    except OSError as exc:
        return exc.errno or errno.EIO
    return 0
