"""Opening LMDB's environment of an index, and the exceptions that stand for LMDB's errors.

LMDB reads its file through a mapping, so a file that was cut short would raise SIGBUS later. Such a
file is refused here, unless only the last pages are missing, as after a crash, and each row can be
read without them (see `data_file`).

Example. A daemon was killed before it made the file as long as its last commit: 98 of 100 pages.
The next one makes it longer, reads all rows, and opens it. Of a file with 30 pages nothing is
changed; opening raises `IndexLost`.
"""

import errno
import os
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

import lmdb

from modelfs.errors import (
    CorruptIndex,
    IndexLost,
    MapFull,
    ModelfsError,
    NotAStore,
    StoreBusy,
    StoreFull,
)
from modelfs.store.index.data_file import LOOSE_PAGES, DataFile
from modelfs.store.index.lock_file import prepare_lock_file
from modelfs.store.index.tables import SINCE, Table

Database = Any  # lmdb._Database, which is an attribute of the module for type checkers only
Databases = dict[Table, Database]

# A writer makes the file longer right after its commit.
LENGTHEN_SECONDS: Final = 1.0
POLL_SECONDS: Final = 0.001


def open_lmdb(
    folder: Path, *, read_only: bool, map_size: int, with_slots: bool
) -> tuple[lmdb.Environment, Databases]:
    """Open the environment in a folder, and its tables.

    Args:
        folder: of the environment, which exists.
        read_only: a store of an older format may then lack tables.
        map_size: address space for the map, in bytes.
        with_slots: whether transactions have slots in the lock file.

    Raises:
        NotAStore: the folder does not exist.
        StoreBusy: this process, or one with the same PID in another container, has it open.
        CorruptIndex: it is damaged; `IndexLost` if it is cut short.
        StoreFull, OSError: the disk is full or failed.
    """
    if not read_only:
        prepare_lock_file(folder)
    try:
        env = lmdb.open(
            str(folder),
            map_size=map_size,
            max_dbs=len(Table),
            max_spare_txns=0 if read_only else 8,
            mode=0o600,
            readonly=read_only,
            create=False,
            readahead=False,
            lock=with_slots,
        )
    except lmdb.Error as exc:
        if not folder.is_dir():
            raise NotAStore(f"{folder.parent} is not a modelfs store: no index") from exc
        if "already open" in str(exc):
            raise StoreBusy(f"{folder.parent} is open in this process already") from exc
        if getattr(exc, "code", 0) == errno.EAGAIN:
            # LMDB locks a byte of its lock file at the offset of the PID: fcntl(2).
            raise StoreBusy(
                f"{folder.parent} is open in a process with the same PID, {os.getpid()}, "
                "in another container; run one of them under another PID"
            ) from exc
        raise translated(exc, str(folder)) from exc
    try:
        return env, _checked_tables(env, DataFile(folder), read_only=read_only)
    except BaseException:
        env.close()
        raise


def _checked_tables(env: lmdb.Environment, file: DataFile, *, read_only: bool) -> Databases:
    """Open the tables, if the file is as long as the pages in use, or can be made so."""
    # The size comes last: another process may commit meanwhile, and the file never becomes shorter.
    used = used_bytes(env)
    deadline = time.monotonic() + LENGTHEN_SECONDS
    loose = LOOSE_PAGES * env.stat()["psize"]
    while 0 < used - (size := file.size) <= loose and read_only and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)  # the other process is about to call `lengthen`
    if size >= used:
        return _tables(env, file, read_only=read_only)
    problem = IndexLost(f"{file.path} is cut short: it has {size} of {used} bytes")
    if used - size > loose:
        raise problem
    # Maybe a crash came before `lengthen`. Then no content is missing, and every row can be read.
    try:
        file.extend(size, used)
        databases = _tables(env, file, read_only=read_only)
        with env.begin() as transaction:
            for database in databases.values():
                with transaction.cursor(database) as cursor:
                    deque(cursor, maxlen=0)
    except (lmdb.Error, ModelfsError, OSError) as exc:
        # Unless it is another process's file, or a writer has extended it meanwhile.
        if not read_only and file.size == used:
            os.truncate(file.path, size)
        raise problem from exc
    return databases


def _tables(env: lmdb.Environment, file: DataFile, *, read_only: bool) -> Databases:
    try:
        if read_only:
            return _existing_databases(env)
        # All in one transaction: in a new store each one would cost an fsync.
        with env.begin(write=True) as transaction:
            return {table: env.open_db(table.value.encode(), transaction) for table in Table}
    except lmdb.Error as exc:
        raise translated(exc, str(file.path.parent)) from exc


def _existing_databases(env: lmdb.Environment) -> Databases:
    """Return the databases of an environment; a store of an older format has fewer tables."""
    databases: Databases = {}
    for table in Table:
        try:
            databases[table] = env.open_db(table.value.encode(), create=False)
        except lmdb.NotFoundError:
            if table not in SINCE:
                raise
    return databases


def used_bytes(env: lmdb.Environment) -> int:
    """Return the bytes up to the end of the last page in use, as of the last commit."""
    return (env.info()["last_pgno"] + 1) * env.stat()["psize"]


def translated(exc: lmdb.Error, what: str = "index") -> ModelfsError | OSError:
    """Return the exception of the program that stands for an LMDB error.

    `StoreFull` for a full disk, `MapFull` for a full map, `OSError` for any other failed system
    call, and else `CorruptIndex`.
    """
    # LMDB passes the errno of a failed system call through; its own codes are negative.
    code = getattr(exc, "code", 0)
    if isinstance(exc, lmdb.MapFullError) or code == errno.ENOSPC:
        kind = MapFull if isinstance(exc, lmdb.MapFullError) else StoreFull
        return kind(f"no space left for the index: {what}: {exc}")
    if code > 0 and code != errno.EINVAL:
        return OSError(code, f"{what}: {exc}")
    return CorruptIndex(f"{what}: {exc}")
