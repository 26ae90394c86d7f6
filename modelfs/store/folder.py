"""A store's folder: how it says what it is, and who may use it at the same time."""

import contextlib
import dataclasses
import fcntl
import os
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
from modelfs.store.disk.descriptors import sync_folder
from modelfs.store.index.counters import OPTIMIZE_AGAIN, OPTIMIZE_WALK, Counters
from modelfs.store.index.index import Index
from modelfs.store.index.records import FORMAT_VERSION, Superblock
from modelfs.store.index.tables import Table

INDEX: Final = "index"
PACKS: Final = "packs"
STAGING: Final = "staging"
LOCK_FILE: Final = "lock"
CONTROL_SOCKET: Final = "control.sock"
FORMAT_FILE: Final = "FORMAT"
FORMAT_NEW: Final = "FORMAT.new"
FORMAT_TEXT: Final = "modelfs store, format {version}\nDo not change anything in this folder.\n"
SUPERBLOCK: Final = b"superblock"

# Every file of a mount answers this attribute with the path of its store.
STORE_ATTRIBUTE: Final = "user.modelfs.store"


def check_format(folder: Path) -> int:
    """Return the format of a store that this version can read.

    Raises:
        NotAStore: it is none.
        UnsupportedFormat: a newer version wrote it.
    """
    try:
        text = (folder / FORMAT_FILE).read_text()
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise NotAStore(f"{folder} is not a modelfs store") from exc
    version = text.partition("format ")[2].split("\n")[0]
    if not text.startswith("modelfs store") or not version.isdecimal():
        raise NotAStore(f"{folder} is not a modelfs store: {FORMAT_FILE} does not say so")
    if int(version) > FORMAT_VERSION:
        raise UnsupportedFormat(
            f"{folder} has format {version}; this version knows {FORMAT_VERSION}"
        )
    return int(version)


def upgrade(folder: Path, index: Index, block: Superblock) -> Superblock:
    """Let a store be of this version's format, and return its superblock.

    What is in it stays as it is, since every old row is still read; but older versions are kept
    from opening it, before anything is written that they do not know. A crash in between leaves a
    superblock that is older than the file says, and the next one who writes does this again.
    """
    if check_format(folder) < FORMAT_VERSION:
        _write_format(folder)
    if block.version >= FORMAT_VERSION:
        return block
    new = dataclasses.replace(block, version=FORMAT_VERSION)
    with index.change():
        if block.version < 2:  # which did not list the files to optimize: walk over all of them
            Counters(index).set(OPTIMIZE_WALK, 1)
            Counters(index).set(OPTIMIZE_AGAIN, 0)
        index.put(Table.META, SUPERBLOCK, new.to_bytes())
    return new


def _write_format(folder: Path) -> None:
    fd = os.open(folder / FORMAT_NEW, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        file.write(FORMAT_TEXT.format(version=FORMAT_VERSION))
        file.flush()
        os.fsync(file.fileno())
    (folder / FORMAT_NEW).replace(folder / FORMAT_FILE)
    sync_folder(folder)


def check_index(folder: Path) -> None:
    """Check that there is an index.

    Raises:
        IndexLost: there is none.
    """
    data = folder / INDEX / "data.mdb"
    if not data.is_file() or not data.stat().st_size:
        # LMDB would make an empty one, and so hide what is missing.
        raise IndexLost(f"{data} is missing or empty")


def read_superblock(index: Index) -> Superblock:
    """Return what an index says of its store.

    Raises:
        CorruptIndex: nothing, or nothing that can be read.
    """
    value = index.get(Table.META, SUPERBLOCK)
    if value is None:
        raise CorruptIndex("the index has no superblock")
    return Superblock.from_bytes(value)


def lock(folder: Path, kind: int) -> int:
    """Lock a store, `fcntl.LOCK_EX` or `LOCK_SH`, until the returned descriptor is closed.

    Raises:
        StoreBusy: another process, which is named, has a lock that excludes this one.
        StoreReadOnly: the lock file cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT if kind == fcntl.LOCK_EX else os.O_RDONLY
    try:
        fd = os.open(folder / LOCK_FILE, flags | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise StoreReadOnly(f"{folder}: {exc.strerror}") from exc
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        raise StoreBusy(f"{folder} is locked by {_holder(folder)}") from exc
    return fd


def is_locked(folder: Path) -> bool:
    """Whether a process has a store open for writing.

    Raises:
        StoreReadOnly: the lock file cannot be opened.
    """
    try:
        os.close(lock(folder, fcntl.LOCK_SH))
    except StoreBusy:
        return True
    return False


def _holder(folder: Path) -> str:
    """Name the process that holds a store's lock: proc_locks(5)."""
    status = (folder / LOCK_FILE).stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            match line.split():
                case [_, "FLOCK", _, _, pid, place, *_] if place == device:
                    return f"process {pid}"
    return "another process"
