"""Leases: whether another program has a file open.

A lease of fcntl(2) on a file is granted only if no open file conflicts with it. A mapping counts,
too, although its file was closed, and so does a file that the kernel opened for FUSE passthrough,
which no process has among its descriptors. A lease that was granted is given back at once: it is a
question about this moment.

Example. A program maps a file for writing and closes it. F_RDLCK is refused with EAGAIN. The
program ends; F_RDLCK is granted.
"""

import errno
import fcntl
import signal
from typing import Final

# Not SIGIO, which would end the process if a program opened the file in this moment.
_SIGNAL: Final = signal.SIGURG
# A file system without leases: it has no files that a kernel writes by passthrough.
_NO_LEASES: Final = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.ENOLCK})


def is_open_for_writing(fd: int) -> bool:
    """Whether a file is open or mapped for writing anywhere; `fd` is open for reading.

    True, too, if that cannot be known because the file is another user's.
    """
    return not _grants(fd, fcntl.F_RDLCK)


def is_open_elsewhere(fd: int) -> bool:
    """Whether a file is open or mapped anywhere, except by `fd`, which is open for reading.

    True, too, if that cannot be known because the file is another user's.
    """
    return not _grants(fd, fcntl.F_WRLCK)


def has_leases(fd: int) -> bool:
    """Whether the file system of a file has leases; no other descriptor of the file is open."""
    try:
        _take(fd, fcntl.F_WRLCK)
    except OSError:
        return False
    return True


def _grants(fd: int, kind: int) -> bool:
    try:
        _take(fd, kind)
    except OSError as exc:
        return exc.errno in _NO_LEASES
    return True


def _take(fd: int, kind: int) -> None:
    fcntl.fcntl(fd, fcntl.F_SETSIG, _SIGNAL)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
