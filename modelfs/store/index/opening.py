"""Opening LMDB's environment of an index, and the exceptions that stand for LMDB's errors.

LMDB trusts its file and reads it through a mapping: a damaged page would end the process. So all
pages that the last commit uses are checked before LMDB reads the first of them (see `pages.walk`),
and an index with a damaged page is refused. So is a file that was cut short, unless only pages are
missing that a crash left unwritten because no row needs them (see `pages.data_file`).

LMDB opens its two files by name, and follows symbolic links. So both are checked just before: they
have to be regular files of the store's owner. Between the check and LMDB's open(2), a process that
may write in the folder could put a link in their place. In a store that is this process's own that
is harmless: only its own user or root may write there. For any other store, with trust too, LMDB
gets a private folder with two links to open descriptors of the checked files. So it opens these and
no others, and never a name in a folder that another user can write.

Example. A daemon was killed before it made the file as long as its last commit: 98 of 100 pages.
The next one finds that all pages in use are there, makes the file longer, and opens it. Of a file
with 30 pages nothing is changed; opening raises `DamagedPages`.
"""

import contextlib
import errno
import os
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Final

import lmdb

from modelfs.errors import (
    CorruptIndex,
    DamagedPages,
    IndexLost,
    MapFull,
    ModelfsError,
    NotAStore,
    SamePid,
    StoreBusy,
    StoreFull,
)
from modelfs.store.disk.allocation import FULL
from modelfs.store.disk.directory import Directory, link_to
from modelfs.store.index.lock_file import LMDB_LOCK_FILE, check_room, prepare_lock_file
from modelfs.store.index.pages.data_file import DATA_FILE, LOOSE_PAGES, DataFile
from modelfs.store.index.pages.layout import PAGE_HEAD, PageFile
from modelfs.store.index.pages.meta import MAGIC, Meta, raw_pages, read_metas, read_record
from modelfs.store.index.pages.meta_check import meta_problems, withdraw
from modelfs.store.index.pages.sums import PageSums
from modelfs.store.index.pages.walk import PageProblem, PageWalk
from modelfs.store.index.row_checksum import matches
from modelfs.store.index.tables import SINCE, Table

Database = Any  # lmdb._Database, which is an attribute of the module for type checkers only
Databases = dict[Table, Database]

# A writer makes the file longer right after its commit.
LENGTHEN_SECONDS: Final = 1.0
# How often a look at the meta pages is repeated, if a commit may have written them meanwhile.
LOOKS_MAX: Final = 20
POLL_SECONDS: Final = 0.001


def open_lmdb(
    folder: Directory, *, read_only: bool, map_size: int, with_slots: bool, check: bool
) -> tuple[lmdb.Environment, Databases]:
    """Open the environment in a folder, and its tables.

    Args:
        folder: of the environment, which exists.
        read_only: a store of an older format may then lack tables.
        map_size: address space for the map, in bytes.
        with_slots: whether transactions have slots in the lock file.
        check: whether to check all pages of the last commit first.

    Raises:
        NotAStore: the folder was deleted.
        StoreNotTrusted: a file of the index is not a regular file of the store's owner.
        StoreBusy: this process has it open; `SamePid` if one in another container has.
        DamagedPages: pages are damaged, or the file is cut short; `IndexLost` if both meta pages
            are.
        CorruptIndex: LMDB reports other damage.
        StoreFull, OSError: the disk is full or failed.
    """
    file = DataFile(folder)
    if check:
        check_meta_pages(folder)
    if not read_only:
        prepare_lock_file(folder)
    store = folder.path.parent
    try:
        with checked_files(folder, with_slots=with_slots) as path:
            env = lmdb.open(
                path,
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
        code = getattr(exc, "code", 0)
        if code == errno.ENOENT:
            raise NotAStore(f"{store} is not a modelfs store: no index") from exc
        if "already open" in str(exc):
            raise StoreBusy(f"{store} is open in this process already") from exc
        if code == errno.EAGAIN:
            # LMDB locks a byte of its lock file at the offset of the PID: fcntl(2).
            raise SamePid(
                f"{store} is open in a process with the same PID, {os.getpid()}, "
                "in another container; run one of them under another PID"
            ) from exc
        raise translated(exc, str(folder.path)) from exc
    try:
        is_short = _is_short(env, file, read_only=read_only)
        if check or is_short:
            _check_last_commit(env, folder)
        if is_short:
            file.extend(file.size, used_bytes(env))
        return env, _tables(env, folder, read_only=read_only)
    except BaseException:
        env.close()
        raise


@contextlib.contextmanager
def checked_files(folder: Directory, *, with_slots: bool) -> Iterator[str]:
    """Yield a path in which LMDB finds the files of an index, after a check of these.

    Raises:
        StoreNotTrusted: one is not a regular file of the store's owner.
        StoreFull: the disk has no room for the pages of the lock file.
    """
    if with_slots:
        check_room(folder)
    names = (DATA_FILE, LMDB_LOCK_FILE) if with_slots else (DATA_FILE,)
    if folder.is_own:
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # LMDB makes it
                folder.status(name)
        yield folder.link
        return
    with tempfile.TemporaryDirectory() as private, contextlib.ExitStack() as files:
        for name in names:
            # O_PATH: a close of any other descriptor would end LMDB's locks, as in `lock_file`.
            fd = files.enter_context(folder.opened(name, os.O_PATH))
            os.symlink(link_to(fd), os.path.join(private, name))
        yield private


def check_meta_pages(folder: Directory) -> None:
    """Check the meta pages of an index, if its file has pages yet. A daemon may have it open.

    Raises:
        StoreNotTrusted: the file is not a regular file of the store's owner.
        DamagedPages: one of the meta pages is damaged, or they have lost a commit.
        IndexLost: both are damaged, and there is no record of one.
    """
    if not folder.exists(DATA_FILE) or not folder.status(DATA_FILE).st_size:
        return
    problems: list[str] = []
    for _ in range(LOOKS_MAX):  # a commit may write one of them just now
        with PageFile(folder) as file:
            problems = meta_problems(file)
            if not problems:
                return
            start = PAGE_HEAD.size
            magics = [(page or b"")[start : start + len(MAGIC)] for page in raw_pages(file)]
            is_lost = MAGIC not in magics and read_record(file) is None
        time.sleep(POLL_SECONDS)
    raise both_damaged(folder) if is_lost else DamagedPages(*problems)


def both_damaged(folder: Directory) -> IndexLost:
    """Return the error of an index of which nothing can be read."""
    return IndexLost(f"both meta pages of {folder.path / DATA_FILE} are damaged")


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


def _check_last_commit(env: lmdb.Environment, folder: Directory) -> None:
    """Check the pages of the last commit. A read transaction keeps them as they are.

    Raises:
        DamagedPages: some are damaged.
        StoreBusy: another process commits all the time.
    """
    problems: list[PageProblem] | None = None
    looks = 0
    while problems is None:
        try:
            with env.begin() as snapshot, PageFile(folder) as pages:
                for meta in read_metas(pages):
                    if meta is not None and meta.transaction == snapshot.id():
                        problems = walk_compared(pages, meta).problems
        except lmdb.Error as exc:
            raise translated(exc) from exc
        looks += 1
        if looks > LOOKS_MAX:
            check_meta_pages(folder)
            raise StoreBusy(f"{folder.path}: too many commits of another process")
    if problems:
        raise DamagedPages(*map(str, problems))


def walk_compared(file: PageFile, meta: Meta) -> PageWalk:
    """Walk the pages of a commit, and compare them with the sums beside the file."""
    return PageWalk(file, meta, PageSums.read(file).of(meta.content), matches)


def _tables(env: lmdb.Environment, folder: Directory, *, read_only: bool) -> Databases:
    try:
        if read_only:
            return _existing_databases(env)
        # All in one transaction: in a new store each one would cost an fsync.
        with env.begin(write=True) as transaction:
            return {table: env.open_db(table.value.encode(), transaction) for table in Table}
    except lmdb.Error as exc:
        if not read_only:
            withdraw(folder)
        raise translated(exc, str(folder.path)) from exc


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

    `StoreFull` for a full disk or quota, `MapFull` for a full map, `OSError` for any other failed
    system call, and else `CorruptIndex`.
    """
    # LMDB passes the errno of a failed system call through; its own codes are negative.
    code = getattr(exc, "code", 0)
    if isinstance(exc, lmdb.MapFullError) or code in FULL:
        kind = MapFull if isinstance(exc, lmdb.MapFullError) else StoreFull
        return kind(f"no space left for the index: {what}: {exc}")
    if code > 0 and code != errno.EINVAL:
        return OSError(code, f"{what}: {exc}")
    return CorruptIndex(f"{what}: {exc}")
