"""The users behind a store: whether shown owners count, and files that are made as a user.

An owner counts only where the file system may be believed. The kernel serves most file systems
itself, and only root mounts them. But with FUSE any user can mount a program, which makes up the
owners, modes and content of files. So in a FUSE mount of another ordinary user, everything is taken
for that user's. A mount of the process's own user, or of root, is believed. `user_id` is in
proc_pid_mountinfo(5), which the kernel has from the mount and not from the program. A FUSE mount
that is not found, because it was unmounted lazily or lies outside of a chroot(2), is taken for one
of user 65534. virtiofs is served by the machine's host, and only root mounts it. Mounts in a user
namespace need no rule: the kernel shows no owners that the namespace lacks.

A file that root makes for another user gets its owner when it is made, and not by chown(2): between
the two, the user could exchange the name with a file of root's, which chown would give to him.

Example. User 1000 mounts a program with FUSE that shows a folder of root's, with a store in it.
There, `user_behind` returns 1000. So root's `modelfs gc` needs --trust, as for any store of 1000.
"""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from modelfs import mount_table, proc
from modelfs.errors import NotPermitted
from modelfs.store.disk.allocation import FUSE, file_system_type

# Types of file systems in the mount table.
FUSE_NAMES: Final = re.compile(r"fuse(blk)?(\..*)?")
NOBODY: Final = 65534
_MOUNT: Final = re.compile(r"^mnt_id:\s*(\d+)$", re.MULTILINE)
_libc: Final = ctypes.CDLL(None, use_errno=True)


def user_behind(fd: int) -> int | None:
    """Return the user who makes up the owners that a file system shows; None if they count.

    Args:
        fd: of a file or folder in it.

    Raises:
        OSError: proc(5) is not mounted.
    """
    mount = None
    # Before Linux 5.14 a process that has given up root may not read its own.
    with suppress(PermissionError):
        mount = _MOUNT.search(proc.read("self", "fdinfo", fd))
    for entry in mount_table.mounts():
        if mount is not None and entry.number == mount[1]:
            if not FUSE_NAMES.fullmatch(entry.kind):
                return None
            user = NOBODY if entry.user is None else entry.user
            return None if user in (0, os.geteuid()) else user
    return NOBODY if file_system_type(fd) in (0, FUSE) else None  # 0: it does not answer


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Let this thread, which is root's, use files as a user inside the block: setfsuid(2).

    A thread that is started inside begins as that user, and stays so.

    Raises:
        NotPermitted: the process lacks CAP_SETUID.
    """
    try:
        _libc.setfsuid(ctypes.c_uint(uid))
        if _libc.setfsuid(ctypes.c_int(-1)) != uid:  # it returns the one before, and no error
            raise NotPermitted(f"cannot make files as user {uid} without CAP_SETUID")
        yield
    finally:
        _libc.setfsuid(ctypes.c_uint(os.geteuid()))
