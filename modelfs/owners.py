"""Files that root makes for another user.

A file that root makes for another user gets its owner when it is made, and not by chown(2): between
the two, the user could exchange the name with a file of root's, which chown would give to him.

Example. Root mounts a store of user 1000 with --trust, and binds the control socket inside a block
of `as_user(1000)`. The socket is made with that owner, whatever user 1000 then does with the name.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """Let this thread, which is root's, use files as a user inside the block: setfsuid(2).

    A thread that is started inside begins as that user, and stays so.

    Raises:
        PermissionError: the process lacks CAP_SETUID.
    """
    try:
        _libc.setfsuid(ctypes.c_uint(uid))
        if _libc.setfsuid(ctypes.c_int(-1)) != uid:  # it returns the one before, and no error
            raise PermissionError(errno.EPERM, f"cannot make files as user {uid}: no CAP_SETUID")
        yield
    finally:
        _libc.setfsuid(ctypes.c_uint(os.geteuid()))
