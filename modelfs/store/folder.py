"""The folder of a store: its files, its format, and the lock that excludes other processes.

::

    FORMAT        the format of the store, as text; a folder with this file is a store
    lock          an flock(2) here excludes other processes
    control.sock  a running daemon answers requests here
    daemon.log    the log of daemons
    index/        the index: an LMDB environment
    packs/        the packs: 00000001.pack, ...
    staging/      the staging files
    quarantine/   damaged data that repairs took out
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
    IndexLost,
    NotAStore,
    StoreBusy,
    StoreReadOnly,
    UnsupportedFormat,
)
from modelfs.store.index.data_file import DATA_FILE
from modelfs.store.index.index import Index
from modelfs.store.index.records import FORMAT_VERSION, SUPERBLOCK, Superblock
from modelfs.store.index.tables import Table

INDEX: Final = "index"
PACKS: Final = "packs"
STAGING: Final = "staging"
LOCK_FILE: Final = "lock"
CONTROL_SOCKET: Final = "control.sock"
FORMAT_FILE: Final = "FORMAT"
FORMAT_NEW: Final = "FORMAT.new"
FORMAT_TEXT: Final = "modelfs store, format {version}\nDo not change anything in this folder.\n"
FORMAT_LINE: Final = re.compile(rb"modelfs store, format ([1-9][0-9]{0,8})\n")

# Every file of a mount answers this attribute with the path of its store.
STORE_ATTRIBUTE: Final = "user.modelfs.store"
_NO_ATTRIBUTE: Final = frozenset({errno.ENODATA, errno.EOPNOTSUPP, errno.ENOSYS})


def is_store(folder: Path) -> bool:
    """Whether a folder is a store, of any format.

    Raises:
        OSError: the folder may not be read, or lies in a mount whose daemon ended.
    """
    start = FORMAT_TEXT.partition(",")[0].encode()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return (folder / FORMAT_FILE).read_bytes().startswith(start)
    return False


def store_of_mount(path: Path) -> Path | None:
    """Return the store of the mount that a path lies in, None if it lies in none.

    Raises:
        OSError: the path does not exist, or the mount's daemon ended.
    """
    try:
        return Path(os.fsdecode(os.getxattr(path, STORE_ATTRIBUTE)))
    except OSError as exc:
        if exc.errno in _NO_ATTRIBUTE:
            return None
        raise


def find_store(path: Path) -> Path:
    """Return the store at a path, or the store of the mount that the path lies in.

    Raises:
        NotAStore: there is no such store.
        OSError: the path may not be read, or the mount's daemon ended.
    """
    if is_store(path):
        return path.resolve()
    try:
        store = store_of_mount(path)
    except FileNotFoundError as exc:
        raise NotAStore(f"{path} does not exist") from exc
    if store is None:
        raise NotAStore(f"{path} is neither a modelfs store nor in a modelfs mount")
    if not is_store(store):
        raise NotAStore(
            f"{path} is in a mount of the store {store}, which does not exist here: "
            "the daemon may run in another container"
        )
    return store


def check_format(folder: Path) -> int:
    """Return the format of a store, a number up to `FORMAT_VERSION`.

    Raises:
        NotAStore: the folder is no store.
        UnsupportedFormat: a newer version of modelfs wrote the store.
    """
    try:
        match = FORMAT_LINE.match((folder / FORMAT_FILE).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise NotAStore(f"{folder} is not a modelfs store") from exc
    if match is None:
        raise NotAStore(f"{folder} is not a modelfs store: its {FORMAT_FILE} file is damaged")
    if (version := int(match[1])) > FORMAT_VERSION:
        raise UnsupportedFormat(
            f"{folder} has format {version}; this version of modelfs reads up to {FORMAT_VERSION}"
        )
    return version


def check_index(folder: Path) -> None:
    """Check that a store's index exists.

    Raises:
        IndexLost: its file is missing or empty.
    """
    data = folder / INDEX / DATA_FILE
    if not data.is_file() or not data.stat().st_size:
        # LMDB would create an empty index, and hide the loss.
        raise IndexLost(f"{data} is missing or empty")


def read_superblock(index: Index) -> Superblock:
    """Return the superblock of a store.

    Raises:
        CorruptIndex: it is missing or damaged.
    """
    value = index.get(Table.META, SUPERBLOCK)
    if value is None:
        raise CorruptIndex("the index has no superblock")
    return Superblock.from_bytes(value)


def lock(folder: Path, kind: int) -> io.FileIO:
    """Lock a store until the returned file is closed.

    Args:
        folder: of the store.
        kind: `fcntl.LOCK_EX` for a writer, `fcntl.LOCK_SH` to exclude writers.

    Raises:
        StoreBusy: another process has a lock that excludes this one. The message names it.
        StoreReadOnly: the lock file cannot be opened.
    """
    path = folder / LOCK_FILE
    try:
        # Not a number: if Ctrl-C comes before it is assigned, the lock would never end.
        file = io.FileIO(path, "r+", opener=_create) if kind == fcntl.LOCK_EX else io.FileIO(path)
    except PermissionError as exc:
        owner = folder.stat().st_uid
        raise StoreReadOnly(f"permission denied: {path} (owned by UID {owner})") from exc
    except OSError as exc:
        raise StoreReadOnly(f"{path} cannot be opened: {exc.strerror}") from exc
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        raise StoreBusy(f"{folder} is locked by {_lock_holder(folder)}") from exc
    return file


def _create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o600)


def is_locked(folder: Path) -> bool:
    """Whether a process has a store open for writing.

    Raises:
        StoreReadOnly: the lock file cannot be opened.
    """
    try:
        lock(folder, fcntl.LOCK_SH).close()
    except StoreBusy:
        return True
    return False


def _lock_holder(folder: Path) -> str:
    """Return the name of the process that has locked a store, from proc_locks(5)."""
    status = (folder / LOCK_FILE).stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            match line.split():
                case [_, "FLOCK", _, _, pid, place, *_] if place == device:
                    return f"process {pid}"
    return "another process"
