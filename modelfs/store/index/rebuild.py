"""Writing a new data file of an index, and putting it in the place of the old one.

A file is replaced in three steps, and a crash between any two of them leaves an index of the same
rows: the new file is written under another name and synced, the lock file is deleted, the new file
is renamed. The lock file goes because it has the number of the old file's last commit. The new
files have the group, the mode and the ACL of the old ones, so that those who may read the store
still may. The caller has the store's lock, so no other process writes the index. One that reads it
goes on with the old files, which have no name any more, until it opens the new ones.

Example. An index of 600 MiB has 500 MiB of free pages, since most files were removed. The next
process that opens it for writing copies the other 100 MiB to `new/data.mdb`. The power fails before
the rename: `data.mdb` is as before, and the next process begins again.
"""

import contextlib
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Final, NamedTuple, Self

import lmdb

from modelfs.store.disk.directory import Directory
from modelfs.store.disk.read_access import ACL
from modelfs.store.index.lock_file import LMDB_LOCK_FILE, prepare_lock_file
from modelfs.store.index.opening import checked_files, translated
from modelfs.store.index.pages.data_file import DATA_FILE
from modelfs.store.index.pages.sums import drop_sums
from modelfs.store.index.tables import Table

log = logging.getLogger(__name__)

# The new file is made in a folder of its own: LMDB records in a file whether it has one.
NEW_FOLDER: Final = "new"
NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL
# Rows that are written in one transaction, whose pages are in memory until it ends.
ROWS_MAX: Final = 100_000
# Address space, more than any index of today needs.
NEW_MAP_SIZE: Final = 1 << 40
# An index is compacted if so many bytes, and this part of it, are unused. An index of a million
# removed files would keep its length for ever.
COMPACT_MIN: Final = 16 << 20
COMPACT_PART: Final = 0.5
# A new file takes at most this part of the room that the store has.
ROOM_PART: Final = 0.5


class _Access(NamedTuple):
    """The permissions of users other than the owner."""

    group: int
    mode: int
    acl: bytes | None

    @classmethod
    def of(cls, folder: Directory, name: str) -> Self:
        with folder.opened(name, os.O_RDONLY) as fd:
            status = os.fstat(fd)
            try:
                acl = os.getxattr(fd, ACL)
            except OSError:
                acl = None
        return cls(status.st_gid, stat.S_IMODE(status.st_mode), acl)

    def give(self, folder: Directory, name: str) -> None:
        """Give a file these permissions; if that fails, it is for the owner alone."""
        with folder.opened(name, os.O_RDONLY) as fd, contextlib.suppress(OSError):
            os.fchown(fd, -1, self.group)
            if self.acl is None:
                os.fchmod(fd, self.mode)
            else:  # with it, the mode of the group is that of all in the list
                os.setxattr(fd, ACL, self.acl)


def write_new(folder: Directory, tables: Mapping[Table, Iterable[tuple[bytes, bytes]]]) -> int:
    """Write a new data file with these rows, durably, and return their number.

    Args:
        folder: of the index.
        tables: the rows of every table, in the order of their keys.

    Raises:
        StoreFull: the disk is full.
        OSError: the disk failed.
    """
    new = _new_folder(folder)
    os.close(new.open(DATA_FILE, NEW_FILE))  # of the right owner; LMDB fills an empty file
    count = 0
    try:
        with checked_files(new, with_slots=False) as path:
            env = lmdb.open(
                path,
                create=False,
                lock=False,
                max_dbs=len(Table),
                map_size=NEW_MAP_SIZE,
                sync=False,
            )
        try:
            for table, rows in tables.items():
                count += _put_rows(env, table, iter(rows))
            env.sync(True)
        finally:
            env.close()
    except lmdb.Error as exc:
        raise translated(exc, str(new.path)) from exc
    with new.opened(DATA_FILE, os.O_RDONLY) as fd:
        os.fsync(fd)
    return count


def _put_rows(env: lmdb.Environment, table: Table, rows: Iterator[tuple[bytes, bytes]]) -> int:
    database = env.open_db(table.value.encode())
    count = 0
    while part := list(islice(rows, ROWS_MAX)):
        with env.begin(write=True, db=database) as transaction:
            for key, value in part:
                transaction.put(key, value, append=True)
        count += len(part)
    return count


def copy_compact(env: lmdb.Environment, folder: Directory, used: int, live: int, room: int) -> bool:
    """Write a new data file with the pages in use, durably, if most pages are unused.

    Args:
        env: an open environment.
        folder: of the index.
        used: bytes up to the end of the last page in use.
        live: bytes of pages in use.
        room: bytes that the store may use besides the old file.

    Returns:
        Whether there is a new file. There is none without room for it, or if LMDB finds damage.
    """
    unused = used - live
    if unused < max(COMPACT_MIN, used * COMPACT_PART):
        return False
    if live > room * ROOM_PART:
        log.warning("the index has %d MiB of unused pages; no room to compact", unused >> 20)
        return False
    try:
        with _new_folder(folder).opened(DATA_FILE, NEW_FILE) as fd:
            env.copyfd(fd, compact=True)
            os.fsync(fd)
    except (lmdb.Error, OSError) as exc:
        log.warning("the index has %d MiB of unused pages: %s", unused >> 20, exc)
        remove_new(folder)
        return False
    log.info("the index is compacted: %d MiB of unused pages are given back", unused >> 20)
    return True


def replace_data_file(folder: Directory) -> None:
    """Put the new data file in the place of the old one, durably. LMDB has neither open.

    Raises:
        OSError: the disk failed; the index is the old one, or the new one.
    """
    new = folder.subdirectory(NEW_FOLDER)
    _Access.of(folder, DATA_FILE).give(new, DATA_FILE)
    access = _Access.of(folder, LMDB_LOCK_FILE) if folder.exists(LMDB_LOCK_FILE) else None
    folder.unlink(LMDB_LOCK_FILE)
    folder.sync()
    new.rename(DATA_FILE, DATA_FILE, folder)
    drop_sums(folder)  # not before: without it, a repair after a crash would believe a stale page
    folder.sync()
    if access is not None:
        prepare_lock_file(folder)
        access.give(folder, LMDB_LOCK_FILE)
    remove_new(folder)


def remove_new(folder: Directory) -> None:
    """Remove a new data file that a crash left behind.

    Raises:
        StoreNotTrusted: its folder is a link, or another user's.
        OSError: the disk failed.
    """
    if folder.exists(NEW_FOLDER):
        folder.subdirectory(NEW_FOLDER).unlink(DATA_FILE)
        folder.remove_subdirectory(NEW_FOLDER)


def _new_folder(folder: Directory) -> Directory:
    """Make the folder of a new data file, empty."""
    remove_new(folder)
    folder.make_subdirectory(NEW_FOLDER)
    return folder.subdirectory(NEW_FOLDER)
