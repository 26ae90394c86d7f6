"""Opening LMDB's environment of an index, and the exceptions that stand for LMDB's errors.

LMDB trusts its file and reads it through a mapping: a damaged page would end the process. So all
pages that the last commit uses are checked before LMDB reads the first of them (see `page_check`),
and an index with a damaged page is refused. So is a file that was cut short, unless only pages are
missing that a crash left unwritten because no row needs them (see `data_file`).

Example. A daemon was killed before it made the file as long as its last commit: 98 of 100 pages.
The next one finds that all pages in use are there, makes the file longer, and opens it. Of a file
with 30 pages nothing is changed; opening raises `DamagedPages`.
"""

import errno
import os
import time
from pathlib import Path
from typing import Any, Final

import lmdb

from modelfs.errors import (
    CorruptIndex,
    DamagedPages,
    IndexLost,
    MapFull,
    ModelfsError,
    NotAStore,
    StoreBusy,
    StoreFull,
)
from modelfs.store.index.data_file import LOOSE_PAGES, DataFile
from modelfs.store.index.lock_file import prepare_lock_file
from modelfs.store.index.page_check import PageProblem, PageWalk
from modelfs.store.index.page_layout import Meta, PageFile, newest
from modelfs.store.index.tables import SINCE, Table

Database = Any  # lmdb._Database, which is an attribute of the module for type checkers only
Databases = dict[Table, Database]

# A writer makes the file longer right after its commit.
LENGTHEN_SECONDS: Final = 1.0
# How often a look at the meta pages is repeated, if a commit may have written them meanwhile.
LOOKS_MAX: Final = 20
POLL_SECONDS: Final = 0.001


def open_lmdb(
    folder: Path, *, read_only: bool, map_size: int, with_slots: bool, check: bool
) -> tuple[lmdb.Environment, Databases]:
    """Open the environment in a folder, and its tables.

    Args:
        folder: of the environment, which exists.
        read_only: a store of an older format may then lack tables.
        map_size: address space for the map, in bytes.
        with_slots: whether transactions have slots in the lock file.
        check: whether to check all pages of the last commit first.

    Raises:
        NotAStore: the folder does not exist.
        StoreBusy: this process, or one with the same PID in another container, has it open.
        DamagedPages: pages are damaged, or the file is cut short; `IndexLost` if both meta pages
            are.
        CorruptIndex: LMDB reports other damage.
        StoreFull, OSError: the disk is full or failed.
    """
    file = DataFile(folder)
    if check:
        check_meta_pages(file.path)
    if not read_only:
        prepare_lock_file(folder)
    try:
        env = lmdb.open(
            os.fsencode(folder),  # a path may have bytes that are no UTF-8
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
        is_short = _is_short(env, file, read_only=read_only)
        if check or is_short:
            _check_last_commit(env, file)
        if is_short:
            file.extend(file.size, used_bytes(env))
        return env, _tables(env, file, read_only=read_only)
    except BaseException:
        env.close()
        raise


def check_meta_pages(path: Path) -> Meta | None:
    """Return the meta page of the last commit of a data file; None if the file has no pages yet.

    A daemon may have it open.

    Raises:
        DamagedPages: one of the meta pages is damaged, or its tree has no root.
        IndexLost: both are.
    """
    if not path.is_file() or not path.stat().st_size:
        return None
    for _ in range(LOOKS_MAX):  # a commit may write one of them just now
        with PageFile(path) as file:
            metas = file.meta_pages()
        damaged = [number for number, meta in enumerate(metas) if meta is None]
        if not damaged:
            return newest(metas)
        time.sleep(POLL_SECONDS)
    if len(damaged) == 2:
        raise both_damaged(path)
    raise DamagedPages(f"meta page {damaged[0]} of the index is damaged")


def both_damaged(path: Path) -> IndexLost:
    """Return the error of an index of which nothing can be read."""
    return IndexLost(f"both meta pages of {path} are damaged")


def _is_short(env: lmdb.Environment, file: DataFile, *, read_only: bool) -> bool:
    """Whether the file lacks pages at its end that may be unwritten after a crash.

    Raises:
        DamagedPages: it lacks more pages than that.
    """
    # The size comes last: another process may commit meanwhile, and the file never becomes shorter.
    used = used_bytes(env)
    deadline = time.monotonic() + LENGTHEN_SECONDS
    loose = LOOSE_PAGES * env.stat()["psize"]
    while 0 < used - (size := file.size) <= loose and read_only and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)  # the other process is about to call `lengthen`
    if used - size > loose:
        raise DamagedPages(f"{file.path} is cut short: it has {size} of {used} bytes")
    return size < used


def _check_last_commit(env: lmdb.Environment, file: DataFile) -> None:
    """Check the pages of the last commit. A read transaction keeps them as they are.

    Raises:
        DamagedPages: some are damaged.
        StoreBusy: another process commits all the time.
    """
    problems: list[PageProblem] | None = None
    looks = 0
    while problems is None:
        try:
            with env.begin() as snapshot, PageFile(file.path) as pages:
                for meta in pages.meta_pages():
                    if meta is not None and meta.transaction == snapshot.id():
                        problems = PageWalk(pages, meta).problems
        except lmdb.Error as exc:
            raise translated(exc) from exc
        looks += 1
        if looks > LOOKS_MAX:
            check_meta_pages(file.path)
            raise StoreBusy(f"{file.path}: too many commits of another process")
    if problems:
        raise DamagedPages(*map(str, problems))


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
