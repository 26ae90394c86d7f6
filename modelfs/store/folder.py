"""The folder of a store: its files, its format, and the lock that excludes other processes.

::

    FORMAT             the format of the store, as text; a folder with this file is a store
    FORMAT.new         its next content, during an upgrade
    lock               an flock(2) here excludes other processes
    control.sock       a running daemon answers requests here
    daemon.log         the log of daemons; daemon.log.1 has its older lines
    index/             the index: an LMDB environment
    packs/             the packs: 00000001.pack, ...
    staging/           the staging files
    repair.unfinished  the losses of a repair that has not finished; only repair opens the store
    quarantine/        damaged data that repairs took out

A user who can write in this folder could make modelfs delete, overwrite or misread files with the
rights of the process that opens the store. So a process opens a store that is its *own*: the folder
belongs to its user, and no other user may write in it. Root is no exception. Any other store needs
`trust`, with one exception: an ordinary user may read a store of another user, if modes permit it,
such as a team's library. Nothing is written then, but a slot in LMDB's lock file if that is
permitted, too. `store.disk.directory` has the rules for the content of the folder: each file of it
that others may write, but for that lock file, needs `trust` as well.

::

    folder belongs to        process of the owner   ordinary user         root
    the owner alone writes   reads and writes       reads                 with trust
    others may write, too    with trust             with trust            with trust

A store is *identified* by device and inode number of its folder: its path may name another store
by now, or in another container, and a copy has the same UUID.
"""

import contextlib
import errno
import fcntl
import io
import os
import re
from pathlib import Path
from typing import Final

from modelfs.errors import (
    CorruptIndex,
    FolderMissing,
    IndexLost,
    IrregularFile,
    NotAStore,
    StoreBusy,
    StoreNotTrusted,
    StoreReadOnly,
    UnsupportedFormat,
)
from modelfs.file_locks import locks
from modelfs.shell_word import shell_word
from modelfs.store.disk.directory import FOLDER_MODE, Directory, Identity
from modelfs.store.index.index import Index
from modelfs.store.index.pages.data_file import DATA_FILE
from modelfs.store.index.superblock import FORMAT_VERSION, SUPERBLOCK, Superblock
from modelfs.store.index.tables import Table

INDEX: Final = "index"
PACKS: Final = "packs"
STAGING: Final = "staging"
LOCK_FILE: Final = "lock"
CONTROL_SOCKET: Final = "control.sock"
FORMAT_FILE: Final = "FORMAT"
FORMAT_NEW: Final = "FORMAT.new"
UNFINISHED: Final = "repair.unfinished"
FORMAT_TEXT: Final = "modelfs store, format {version}\nDo not change anything in this folder.\n"
FORMAT_LINE: Final = re.compile(rb"modelfs store, format ([1-9][0-9]{0,8})\n")


def open_folder(store: Path | Directory, *, read_only: bool, trust: bool = False) -> Directory:
    """Open the folder of a store, if this process may use it: see above.

    Args:
        store: the path of the folder, or a result of `mounted.find_store`, which stays open: then
            it is the same folder, wherever it is by now.
        read_only: whether the store is only to be read.
        trust: whether to accept all owners and modes.

    Raises:
        NotAStore: there is no folder with a format file.
        StoreReadOnly: it is to be written, and modes keep it to another user.
        StoreNotTrusted: it is another user's, or others may write in it.
        OSError: the path may not be searched.
    """
    path, place = (store.path, store.link) if isinstance(store, Directory) else (store, store)
    try:
        directory = Directory(Path(place), trust=trust)
        is_a_store = directory.exists(FORMAT_FILE)
    except (FileNotFoundError, NotADirectoryError):
        is_a_store = False
    if not is_a_store:
        raise NotAStore(f"{path} is not a modelfs store")
    user = os.geteuid()
    if not read_only and user not in (0, directory.owner) and not directory.may_write():
        # Trust is not enough.
        raise StoreReadOnly(
            f"permission denied: {path} ({directory.whose}, and this process of "
            f"user {user} may not write in it)"
        ) from PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    if not trust and directory.owner != user and (user == 0 or not read_only):
        raise StoreNotTrusted(
            f"permission denied: {path} ({directory.whose}, and this is a process of user {user})"
        )
    directory.check_private()
    return directory


def check_finished(store: Directory) -> None:
    """Check that no repair of a store that has lost commits of the index is unfinished.

    Raises:
        CorruptIndex: one is. Files that only the lost commits mention are not set aside yet, and
            opening the store for writing would remove them.
    """
    if store.exists(UNFINISHED):
        raise CorruptIndex(
            f"a repair of {store.path} has not finished; finish it with `modelfs fsck --repair`"
        )


def is_store(folder: Path) -> bool:
    """Whether a folder is a store, of any format.

    Raises:
        IrregularFile: its format file is not a regular file.
        OSError: the folder may not be read, or lies in a mount whose daemon ended.
    """
    return open_if_store(folder) is not None


def open_if_store(folder: Path) -> Directory | None:
    """Open a folder if it is a store, of any owner and mode. Raises what `is_store` does."""
    start = FORMAT_TEXT.partition(",")[0].encode()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        directory = Directory(folder, trust=True)
        if directory.read(FORMAT_FILE).startswith(start):
            return directory
    return None


def store_around(path: Path) -> Path | None:
    """Return the store that a path lies in, which need not exist; None if it lies in none.

    A format file counts if the owner of its folder or root has made it: in /tmp any user may make
    one. If it may not be read, the folder is taken for a store.
    """
    for folder in Path(os.path.realpath(path)).parents:
        with contextlib.suppress(OSError):  # as of a folder that may not be searched
            owner = (folder / FORMAT_FILE).lstat().st_uid
            if owner in (0, folder.stat().st_uid) and _may_be_store(folder):
                return folder
    return None


def _may_be_store(folder: Path) -> bool:
    try:
        return is_store(folder)
    except IrregularFile:
        return False
    except (PermissionError, StoreNotTrusted):  # as after a restore by root
        return True


def identity_of(folder: Path) -> Identity:
    """Return the identity of a folder.

    Raises:
        OSError: it does not exist, or may not be seen.
    """
    status = folder.stat()
    return Identity(status.st_dev, status.st_ino)


def check_format(folder: Directory) -> int:
    """Return the format of a store, a number up to `FORMAT_VERSION`.

    Raises:
        NotAStore: the folder is no store.
        UnsupportedFormat: a newer version of modelfs wrote the store.
    """
    try:
        match = FORMAT_LINE.match(folder.read(FORMAT_FILE))
    except FileNotFoundError as exc:
        raise NotAStore(f"{folder.path} is not a modelfs store") from exc
    if match is None:
        raise NotAStore(f"{folder.path} is not a modelfs store: its {FORMAT_FILE} file is damaged")
    if (version := int(match[1])) > FORMAT_VERSION:
        raise UnsupportedFormat(
            f"{folder.path} has format {version}; "
            f"this version of modelfs reads up to {FORMAT_VERSION}"
        )
    return version


def write_format(folder: Directory, name: str = FORMAT_FILE) -> None:
    """Make a format file of `FORMAT_VERSION` that does not exist, durably but for its name."""
    with open(folder.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "w") as file:
        file.write(FORMAT_TEXT.format(version=FORMAT_VERSION))
        file.flush()
        os.fsync(file.fileno())


def open_index_folder(folder: Directory) -> Directory:
    """Open the folder of a store's index.

    Raises:
        StoreNotTrusted: it, or the index, may be another user's.
        IndexLost: the index's file is missing or empty.
    """
    try:
        index = folder.subdirectory(INDEX)
        size = index.status(DATA_FILE).st_size
    except FileNotFoundError:
        size = 0
    if not size:
        # LMDB would create an empty index, and hide the loss.
        raise IndexLost(f"{folder.path / INDEX / DATA_FILE} is missing or empty")
    return index


def open_content_folder(folder: Directory, name: str) -> Directory:
    """Open the folder of a store's packs, or of its staging files.

    Raises:
        FolderMissing: it is missing. The message has the command that makes it again.
        StoreNotTrusted: it may be another user's.
    """
    try:
        return folder.subdirectory(name)
    except FileNotFoundError as exc:
        path = folder.path / name
        raise FolderMissing(
            f"the folder {path} is missing (if it was empty, a backup may have left it out; then "
            f"make it: mkdir -m {FOLDER_MODE:o} {shell_word(path)})"
        ) from exc


def read_superblock(index: Index) -> Superblock:
    """Return the superblock of a store.

    Raises:
        CorruptIndex: it is missing or damaged.
    """
    value = index.get(Table.META, SUPERBLOCK)
    if value is None:
        raise CorruptIndex("the index has no superblock")
    return Superblock.from_bytes(value)


def lock(folder: Directory, kind: int) -> io.FileIO:
    """Lock a store until the returned file is closed.

    Args:
        folder: of the store.
        kind: `fcntl.LOCK_EX` for a writer, `fcntl.LOCK_SH` to exclude writers.

    Raises:
        StoreBusy: another process has a lock that excludes this one. The message names it.
        StoreReadOnly: the lock file cannot be opened.
        StoreNotTrusted: the lock file is a link, or another user's.
    """
    writes = kind == fcntl.LOCK_EX
    flags = os.O_RDWR | os.O_CREAT if writes else os.O_RDONLY
    try:
        # Not a number: if Ctrl-C comes before it is assigned, the lock would never end.
        file = io.FileIO(
            LOCK_FILE, "r+" if writes else "r", opener=lambda name, _: folder.open(name, flags)
        )
    except PermissionError as exc:
        raise StoreReadOnly(f"permission denied: {exc.filename} ({folder.whose})") from exc
    except OSError as exc:
        raise StoreReadOnly(f"{exc.filename} cannot be opened: {exc.strerror}") from exc
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        raise StoreBusy(f"{folder.path} is locked by {_lock_holder(folder)}") from exc
    return file


def is_locked(folder: Directory) -> bool:
    """Whether a process has a store open for writing.

    Raises:
        StoreReadOnly: the lock file cannot be opened.
        StoreNotTrusted: the lock file is a link, or another user's.
    """
    try:
        lock(folder, fcntl.LOCK_SH).close()
    except StoreBusy:
        return True
    return False


def _lock_holder(folder: Directory) -> str:
    """Return the name of the process that has locked a store."""
    inode = folder.status(LOCK_FILE).st_ino
    with contextlib.suppress(OSError):
        holders = {lock.pid for lock in locks() if lock.kind == "FLOCK" and lock.inode == inode}
        if len(holders) == 1 and (pid := holders.pop()) > 0:
            return f"process {pid}"
    return "another process"
