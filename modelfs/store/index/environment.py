"""The LMDB environment of an index, kept usable.

Theory of operation. LMDB leaves two things to its users. When a commit fails in its very last
write, that of the meta page, the environment answers everything with MDB_PANIC from then on, until
it is closed and opened again. And a map that is full can be made larger. Neither may happen while a
transaction of this process is alive. So transactions are counted, and the environment is

- *open*: `_env` is set. Transactions begin and end; `_alive` has an item for each.
- *draining*: `recover` holds the lock and has taken `_env` away. Transactions under way end; new
  ones wait for the lock.
- *closed*: no transaction is alive. `recover` opens the environment again, or resizes it, and sets
  `_env`. If opening fails `_env` stays empty, and the next transaction tries once more.

The file is read through a mapping, so a page that the disk cannot read is SIGBUS, which ends the
process. A file that is cut short is refused when it is opened (see `data_file`). Against a disk
that fails to read a page later, nothing can be done here.
"""

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import lmdb

from modelfs.errors import CorruptIndex, IndexLost, ModelfsError, NotAStore, StoreFull
from modelfs.store.index.data_file import LOOSE_PAGES, DataFile, prepare_lock_file
from modelfs.store.index.tables import SINCE_2, Table

log = logging.getLogger(__name__)

# Address space, not memory or disk. 64 GiB index about 200 million chunks; it grows when full.
MAP_SIZE: Final = 64 << 30
POLL_SECONDS: Final = 0.001

Database = Any  # lmdb._Database, which is an attribute of the module for type checkers only


class Environment:
    """Transactions on the tables of an index. Any thread."""

    def __init__(self, folder: Path, *, read_only: bool, map_size: int) -> None:
        self._folder = folder
        self._read_only = read_only
        self._map_size = map_size
        self._file = DataFile(folder)
        self._lock = threading.Lock()
        self._alive: list[None] = []  # one for each transaction, begun or about to be
        self._env: lmdb.Environment | None = None
        self._databases: dict[Table, Database] = {}
        self._open()

    def transaction(self, *, write: bool = False) -> "Transaction":
        """Return a transaction for a `with` block, at whose end it is committed.

        Raises, then or inside the block:
            StoreFull: the disk is full, or there is no address space for a larger map.
            OSError: the disk failed.
            CorruptIndex: LMDB cannot make sense of what it reads.
        """
        return Transaction(self, write=write)

    def database(self, table: Table) -> Database:
        """Return a table, for use inside a transaction."""
        return self._databases[table]

    def has(self, table: Table) -> bool:
        """Whether the table is there: read-only, it may be younger than the store's format."""
        return table in self._databases

    def write(self, work: Callable[["lmdb.Transaction[bytes]"], None]) -> None:
        """Do `work` in a transaction, and once more whenever the map was too small for it.

        Raises: what `transaction` does; then nothing was written.
        """
        while True:
            transaction = self.transaction(write=True)
            try:
                with transaction as begun:
                    work(begun)
                break
            except StoreFull as exc:
                problem = exc.__cause__
                if not isinstance(problem, lmdb.Error) or not self.recover(
                    transaction.env, problem
                ):
                    raise
        with self._acquired() as env:
            self._lengthen(env)

    def sync(self) -> None:
        """Make the last commit durable, if it is not yet.

        Raises:
            OSError: it is not known whether it is.
        """
        with self._acquired() as env:
            try:
                env.sync(True)
            except lmdb.Error as exc:
                raise translated(exc) from exc

    def used(self) -> int:
        """Return the bytes of the file that are in use, as of the last commit."""
        with self._acquired() as env:
            return _used(env)

    def snapshot_id(self) -> int:
        """Return the number of the last committed transaction."""
        with self._acquired() as env:
            return env.info()["last_txnid"]

    def close(self) -> None:
        if self._env is not None:
            self._env.close()

    # -- for transactions

    def acquire(self) -> lmdb.Environment:
        """Return LMDB's environment, which stays as it is until `release`."""
        while True:
            # No lock, which would double the cost of a lookup: whoever changes the environment
            # first takes it away, and then waits until nobody is noted here.
            self._alive.append(None)
            if (env := self._env) is not None:
                return env
            self._alive.pop()
            with self._lock:
                if self._env is None:
                    self._open()

    def release(self) -> None:
        """Let the environment be reopened or resized."""
        self._alive.pop()

    @contextlib.contextmanager
    def _acquired(self) -> Iterator[lmdb.Environment]:
        env = self.acquire()
        try:
            yield env
        finally:
            self.release()

    def recover(self, env: lmdb.Environment, problem: lmdb.Error) -> bool:
        """Do what LMDB leaves to its users; say whether to try again. Not while holding it."""
        if not isinstance(problem, lmdb.PanicError | lmdb.MapFullError | lmdb.MapResizedError):
            return False
        with self._lock:
            if self._env is not env:
                return True  # another thread was faster
            self._drain()
            if isinstance(problem, lmdb.PanicError):
                self._reopen(env)
            else:
                self._resize(env, problem)
        return True

    def _drain(self) -> None:
        self._env = None
        while self._alive:
            # Not a condition, which every transaction would have to notify.
            time.sleep(POLL_SECONDS)

    def _reopen(self, env: lmdb.Environment) -> None:
        log.warning("index: opened again after a commit that failed")
        env.close()
        self._open()

    def _resize(self, env: lmdb.Environment, problem: lmdb.Error) -> None:
        # Another process may have made it larger: then 0 stands for as large as that.
        size = 0 if isinstance(problem, lmdb.MapResizedError) else 2 * env.info()["map_size"]
        try:
            env.set_mapsize(size)
        except (lmdb.Error, MemoryError, OverflowError) as exc:
            raise StoreFull(f"index: the map is full and cannot grow: {exc}") from exc
        finally:
            self._env = env

    def _open(self) -> None:
        if not self._read_only:
            prepare_lock_file(self._folder)
        try:
            env = lmdb.open(
                str(self._folder),
                map_size=self._map_size,
                max_dbs=len(Table),
                max_spare_txns=8,
                mode=0o600,
                readonly=self._read_only,
                create=False,
                readahead=False,
            )
        except lmdb.Error as exc:
            if not self._folder.is_dir():
                raise NotAStore(f"{self._folder.parent} has no index") from exc
            raise translated(exc, str(self._folder)) from exc
        try:
            self._validate(env)
        except BaseException:
            env.close()
            raise
        self._env = env

    def _validate(self, env: lmdb.Environment) -> None:
        size, used = self._file.size, _used(env)
        if size >= used:
            self._open_tables(env)
            return
        problem = IndexLost(f"{self._file.path} is cut short: {size} of {used} bytes are there")
        if used - size > LOOSE_PAGES * env.stat()["psize"]:
            raise problem
        # A crash, or this look at it, may have come before `lengthen`. If so, nothing is missing.
        try:
            self._file.reach(size, used)
            self._open_tables(env)
            self._read_all(env)
        except (lmdb.Error, ModelfsError, OSError) as exc:
            if self._file.size == used:  # no writer has added to it meanwhile
                os.truncate(self._file.path, size)
            raise problem from exc

    def _open_tables(self, env: lmdb.Environment) -> None:
        try:
            if self._read_only:
                self._databases = _found(env)
            else:
                # In one transaction: each of its own would flush the disk, in a new store.
                with env.begin(write=True) as transaction:
                    names = {table: table.value.encode() for table in Table}
                    self._databases = {
                        table: env.open_db(name, transaction) for table, name in names.items()
                    }
        except lmdb.Error as exc:
            raise translated(exc, str(self._folder)) from exc

    def _read_all(self, env: lmdb.Environment) -> None:
        with env.begin() as transaction:
            for database in self._databases.values():
                with transaction.cursor(database) as cursor:
                    for _ in cursor:
                        pass

    def _lengthen(self, env: lmdb.Environment) -> None:
        used = _used(env)
        self._file.lengthen(used, self._free(env) if self._file.needs_blocks(used) else 0)

    def _free(self, env: lmdb.Environment) -> int:
        """Return the bytes of the pages that are not in use though others behind them are."""
        try:
            with env.begin() as snapshot:
                tables = [env.stat(), *map(snapshot.stat, self._databases.values())]
        except lmdb.Error:
            return 0  # what has been committed is committed; whoever reads next is told
        pages = sum(
            each["branch_pages"] + each["leaf_pages"] + each["overflow_pages"] for each in tables
        )
        return _used(env) - pages * env.stat()["psize"]


class Transaction:
    """One transaction, alive inside its `with` block."""

    __slots__ = ("_environment", "_transaction", "_write", "env")

    def __init__(self, environment: Environment, *, write: bool) -> None:
        self._environment = environment
        self._write = write
        self.env: lmdb.Environment
        self._transaction: lmdb.Transaction[bytes]

    def __enter__(self) -> "lmdb.Transaction[bytes]":
        while True:
            self.env = self._environment.acquire()
            try:
                self._transaction = self.env.begin(write=self._write)
            except lmdb.Error as exc:
                self._environment.release()
                if not self._environment.recover(self.env, exc):
                    raise translated(exc) from exc
            except BaseException:
                self._environment.release()
                raise
            else:
                return self._transaction

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._transaction.__exit__(kind, exc, traceback)
        except lmdb.Error as error:
            raise translated(error) from error
        finally:
            self._environment.release()
        if isinstance(exc, lmdb.Error):
            raise translated(exc) from exc


def _found(env: lmdb.Environment) -> dict[Table, Database]:
    """Return the tables that are there; a store of an older format has fewer."""
    found: dict[Table, Database] = {}
    for table in Table:
        try:
            found[table] = env.open_db(table.value.encode(), create=False)
        except lmdb.NotFoundError:
            if table not in SINCE_2:
                raise
    return found


def _used(env: lmdb.Environment) -> int:
    return (env.info()["last_pgno"] + 1) * env.stat()["psize"]


def translated(exc: lmdb.Error, what: str = "index") -> ModelfsError | OSError:
    """Return what an error of LMDB is for everybody else."""
    # LMDB passes the errno of a failed system call through; its own codes are negative.
    code = getattr(exc, "code", 0)
    if isinstance(exc, lmdb.MapFullError) or code == errno.ENOSPC:
        return StoreFull(f"{what}: {exc}")
    if code > 0 and code != errno.EINVAL:
        return OSError(code, f"{what}: {exc}")
    return CorruptIndex(f"{what}: {exc}")
