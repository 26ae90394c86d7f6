"""The store of a mount, found by attributes that every file of the mount answers.

They are the path of the store's folder, and the folder's identity with the daemon's process and its
descriptor of the folder: `DEVICE:INODE PID/FD`. At the path there may be nothing, or another store,
in another container. Then the descriptor leads to it.

Example. A daemon with PID 70 has mounted /data/store, and the store is renamed to /data/models. In
the mount, "user.modelfs.store" is "/data/models", the path by now. In a container that has the
mount and no /data, the store is found as /proc/70/fd/5, if the container sees that process.
"""

import contextlib
import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelfs.errors import NotAStore
from modelfs.proc import PROC
from modelfs.store.disk.directory import Directory, Identity
from modelfs.store.folder import identity_of, open_if_store

STORE_ATTRIBUTE: Final = "user.modelfs.store"
DAEMON_ATTRIBUTE: Final = "user.modelfs.daemon"
_DAEMON: Final = re.compile(rb"(\d+):(\d+) (\d+)/(\d+)")
_NO_ATTRIBUTE: Final = frozenset({errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS})


@dataclass(frozen=True, slots=True)
class MountedStore:
    """The store of a mount, as the daemon of the mount describes it."""

    path: Path  # for the daemon
    identity: Identity | None  # None: a daemon of an older version
    link: Path | None  # to the daemon's descriptor of the folder
    process: int | None = None  # the daemon's, in its own namespace of processes

    def find(self) -> Path | None:
        """Return a path of the folder in this process, None if it is out of sight."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if self.identity in (None, identity_of(self.path)):
                return self.path
        return self.link if self.is_open_in_process() else None

    def is_open_in_process(self) -> bool:
        """Whether the daemon's process is seen here, and is not another one of that number."""
        with contextlib.suppress(OSError):
            return self.link is not None and identity_of(self.link) == self.identity
        return False


def store_of_mount(path: Path) -> MountedStore | None:
    """Return the store of the mount that a path lies in, None if it lies in none.

    Raises:
        OSError: the path does not exist, or the mount's daemon ended.
    """
    name = _attribute(path, STORE_ATTRIBUTE)
    if not name.startswith(b"/") or b"\0" in name:  # any user may give a file any attributes
        return None
    store = Path(os.fsdecode(name))
    daemon = _DAEMON.fullmatch(_attribute(path, DAEMON_ATTRIBUTE))
    if daemon is None:
        return MountedStore(store, None, None)
    device, inode, process, fd = map(int, daemon.groups())
    return MountedStore(store, Identity(device, inode), PROC / f"{process}/fd/{fd}", process)


def _attribute(path: Path, name: str) -> bytes:
    """Return an attribute of a file, no bytes if it has none of that name."""
    try:
        return os.getxattr(path, name)
    except OSError as exc:
        if exc.errno in _NO_ATTRIBUTE:
            return b""
        raise


def daemon_attribute(folder: Directory) -> bytes:
    """Return the value of `DAEMON_ATTRIBUTE`, in the daemon that has opened a store's folder."""
    return f"{folder.identity} {os.getpid()}/{folder.fd}".encode()


def find_store(path: Path) -> Directory:
    """Open the store at a path, or the store of the mount that the path lies in.

    Of any owner and mode: `open_folder` checks them. At the path there may be another store by
    then, and the result is still this one.

    Raises:
        NotAStore: there is no such store.
        IrregularFile: as `is_store`.
        OSError: the path may not be read, or the mount's daemon ended.
    """
    store, _ = _find(path)
    return store


def find_path(path: Path) -> Path:
    """Return a path of the store at a path, or of the mount that the path lies in.

    It may name another store by the time that it is opened, but it can be kept: a reader opens the
    store again, also in other processes. Raises what `find_store` does.
    """
    store, found = _find(path)
    store.close()
    return found


def _find(path: Path) -> tuple[Directory, Path]:
    """Return the store as `find_store` does, and a path by which this process can open it again."""
    if (store := open_if_store(path)) is not None:
        return store, store.path
    try:
        mounted = store_of_mount(path)
    except FileNotFoundError as exc:
        raise NotAStore(f"{path} does not exist") from exc
    if mounted is None:
        raise NotAStore(f"{path} is neither a modelfs store nor in a modelfs mount")
    found = mounted.find()
    if found is None or (store := open_if_store(found)) is None:
        raise NotAStore(
            f"{path} is in a mount of the store {mounted.path}, which does not exist here: "
            "the daemon may run in another container"
        )
    if mounted.identity not in (None, store.identity):
        raise NotAStore(f"the store {found} was moved or replaced meanwhile")
    # Not `store.path`: of a folder in another mount namespace that is the path there.
    return store, found
