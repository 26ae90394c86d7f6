"""The meaning of a path on the command line: a store, a place in a mount, or neither."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from modelfs.cli.failure import Failure
from modelfs.cli.permission import permission_denied
from modelfs.errors import NotADirectory, NotAStore, NotFound
from modelfs.mount_table import MODELFS, mount_point_of, mounted_at, mounts
from modelfs.shell_word import shell_word
from modelfs.store import folder, mounted
from modelfs.store.disk.directory import Directory, Identity
from modelfs.store.files.path_lookup import inode_at
from modelfs.store.index.tables import InodeNumber
from modelfs.store.mounted import STORE_ATTRIBUTE, MountedStore
from modelfs.store.store import Store

# The errnos of a mount whose daemon ended without unmounting it.
DEAD: Final = frozenset({errno.ENOTCONN, errno.ECONNABORTED})
LIST_MOUNTS: Final = "list modelfs mounts with: findmnt -t fuse.modelfs"


def is_store(path: Path) -> bool:
    """Return whether a folder is a store, of any format.

    Raises:
        Failure: the folder may not be read, or lies in a mount whose daemon ended.
    """
    with _access_failures(path):
        return folder.is_store(path)


def store_of_mount(path: Path) -> MountedStore | None:
    """Return the store of the mount that a path lies in, None if it lies in none.

    Raises:
        Failure: as of `is_store`.
    """
    with _access_failures(path):
        return mounted.store_of_mount(path)


def find_store(path: Path) -> Directory:
    """Open the store at a path, or the store of the mount that the path lies in.

    Of any owner and mode: `open_folder` checks them.

    Raises:
        Failure: there is no such store, or it may not be read.
    """
    with _access_failures(path):
        try:
            return mounted.find_store(path)
        except NotAStore as exc:
            raise Failure(f"{exc}; name a store or its mount point") from exc


def find_mount_point(store: Identity) -> Path | None:
    """Return where a store is mounted, None if this user cannot see that."""
    for entry in mounts():
        # Other mounts may be dead, or another user's.
        with contextlib.suppress(Failure, OSError):
            mounted = store_of_mount(entry.path) if entry.kind == MODELFS else None
            if mounted is not None and mounted.identity == store:
                return entry.path
    return None


def store_mounted_at(path: Path) -> MountedStore:
    """Return the store that is mounted at a path.

    Raises:
        Failure: no modelfs mount is there.
    """
    if not path.exists():
        raise Failure(f"{path} does not exist; {LIST_MOUNTS}")
    store, entry = store_of_mount(path), mounted_at(path)
    if entry is None and store is not None:
        top = mount_point_of(path)
        raise Failure(
            f"{path} is a place in a mount; unmount it with: modelfs umount {shell_word(top)}"
        )
    if entry is None:
        problem = "a store, not its mount point" if is_store(path) else "not mounted"
        raise Failure(f"{path} is {problem}; {LIST_MOUNTS}")
    if store is None:
        raise Failure(
            f"{path} is a mount of {entry.kind}, not of modelfs; try: umount {shell_word(path)}"
        )
    return store


def file_of_mount(file: Path) -> tuple[Directory, InodeNumber]:
    """Return the store and the inode of a file in a mount.

    Raises:
        Failure: the path is not a regular file in a mount.
    """
    try:
        mounted = store_of_mount(file)
    except FileNotFoundError as exc:
        raise Failure(f"{file} does not exist; name a file in a mount") from exc
    if mounted is None and not file.is_file() and not file.is_dir():
        # The kernel asks for attributes of files and folders only.
        raise Failure(f"{file} is not a regular file; it has no content to inspect")
    if mounted is None:
        raise Failure(
            f"{file} is not in a modelfs mount; "
            "for a store that is not mounted: modelfs inspect --store STORE FILE"
        )
    status = file.stat()
    if stat.S_ISDIR(status.st_mode):
        raise Failure(f"{file} is a folder; name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise Failure(f"{file} is not a regular file; it has no content to inspect")
    return find_store(file), InodeNumber(status.st_ino)


def files_below(paths: Iterable[Path]) -> tuple[Directory, list[InodeNumber]]:
    """Return the store and the inodes of files in a mount, and of all files below folders.

    Raises:
        Failure: a path is not in a mount, or they are in several.
    """
    inodes: dict[InodeNumber, None] = {}
    found: dict[Identity, Directory] = {}
    for path in paths:
        if store_of_mount(path) is None:
            raise Failure(f"{path} is not in a modelfs mount; name files or folders in one")
        store = find_store(path)
        found[store.identity] = store
        for file in _files_in(path):
            status = file.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                inodes[InodeNumber(status.st_ino)] = None
    if len(found) > 1:
        raise Failure("the paths are in several mounts; name those of one")
    return next(iter(found.values())), list(inodes)


def _files_in(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path.resolve()
        return
    for top, _, names in os.walk(path):
        yield from (Path(top, name) for name in names)


def file_of_store(store: Store, file: Path) -> InodeNumber:
    """Return the inode of a path in a store that is open for reading.

    Raises:
        Failure: there is no such path, or it is not that of a regular file.
    """
    try:
        inode = inode_at(store.namespace, store.inodes, file)
        mode = store.inodes.get(inode).mode
    except (NotFound, NotADirectory) as exc:
        raise Failure(
            f"{exc}, as of the last commit of {store.folder}; name a path from the top of the store"
        ) from exc
    if stat.S_ISDIR(mode):
        raise Failure(f"{file} is a folder of {store.folder}; name a file in it")
    if not stat.S_ISREG(mode):
        raise Failure(f"{file} is not a regular file; it has no content to inspect")
    return inode


def is_dead(path: Path) -> bool:
    """Return whether a path is a mount whose daemon ended without unmounting it."""
    try:
        # Not stat(2), which the kernel answers from its cache.
        os.getxattr(path, STORE_ATTRIBUTE)
    except OSError as exc:
        return exc.errno in DEAD
    return False


@contextlib.contextmanager
def _access_failures(path: Path) -> Iterator[None]:
    """Turn the errors of denied access and of a dead mount into failures."""
    try:
        yield
    except PermissionError as exc:
        # The store of a mount may be in the way, and not the path: its format file is read. If its
        # folder may not be searched, the folder is denied.
        denied = Path(exc.filename or path)
        if denied.name == folder.FORMAT_FILE and not os.path.lexists(denied):
            denied = denied.parent
        raise Failure(permission_denied(denied)) from exc
    except OSError as exc:
        if exc.errno not in DEAD:
            raise
        raise Failure(
            f"{path} is in a mount whose daemon ended; "
            f"clear it with: modelfs umount {shell_word(mount_point_of(path))}"
        ) from exc
