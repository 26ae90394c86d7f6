"""The LMDB environment of an index: transactions, recovery from MDB_PANIC, and a map that grows.

Theory of operation. LMDB leaves two things to its users. If a commit fails at its last write, that
of the meta page, every later call returns MDB_PANIC until the environment is closed and opened
again. And a full map has to be made larger. Neither is allowed while a transaction of this process
is alive. So transactions are counted, and the environment has three states:

- *open*: `_env` is set. Transactions begin and end; `alive` has each one, and its thread.
- *draining*: `recover` or `reopen` holds the lock, and has moved `_env` to `_draining`. Running
  transactions end, and may begin others inside; new ones wait for the lock. An exception that
  interrupts this, such as `KeyboardInterrupt`, moves it back.
- *closed*: no transaction is alive. `recover` resizes the environment and sets `_env`, or closes
  it. The next transaction opens a closed environment; if that fails, the one after it tries again.

Example. Threads A and B read while thread C commits, and the map is full. LMDB raises
`MapFullError` in C, whose transaction ends. C calls `recover`, which moves `_env` to `_draining`. A
new read of A waits for the lock. B ends its transaction, so `alive` is empty: the map becomes twice
as large, `_env` is set, A goes on, and C repeats its commit.

An environment must not be used across a fork(2), nor be open twice in a process. So `reopen` drains
and closes it before a fork, and the next transaction opens it again, in both processes. Until the
fork is done, `fork_gate` keeps it closed.

LMDB reads the file through a mapping. A page that the disk cannot read raises SIGBUS, which ends
the process. So all pages are read and checked when the environment is opened for the first time
(see `opening`). Nothing here can prevent the end of a process if the disk loses a page after that.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Iterator
from threading import get_ident
from types import TracebackType
from typing import Final

import lmdb

from modelfs.errors import StoreBusy, StoreFull
from modelfs.store.disk.directory import Directory
from modelfs.store.index.fork_gate import FORK_GATE
from modelfs.store.index.lock_file import free_slots, may_lock
from modelfs.store.index.opening import Database, open_lmdb, translated
from modelfs.store.index.pages.sums import drop_sums
from modelfs.store.index.tables import Table

log = logging.getLogger(__name__)

# Address space, not memory or disk. 64 GiB index about 200 million chunks; it grows when full.
MAP_SIZE: Final = 64 << 30
POLL_SECONDS: Final = 0.001
# The longest wait of a transaction for a slot in the lock file.
SLOT_SECONDS: Final = 10.0


class Environment:
    """Transactions on the tables of an index. Any thread."""

    def __init__(
        self, folder: Directory, *, read_only: bool, map_size: int, needs_slots: bool = True
    ) -> None:
        """Open the environment.

        Args:
            folder: of the environment.
            read_only: no transaction writes.
            map_size: address space for the map, in bytes.
            needs_slots: another process may write meanwhile. If none can, transactions go without:
                LMDB lets only one process of each PID have slots, and containers all have a 1.
        """
        self._folder = folder
        self._read_only = read_only
        self._map_size = map_size
        self._lock = threading.RLock()  # a signal handler may fork on the thread that holds it
        # The thread of each transaction or other use of the environment, begun or about to be.
        self.alive: dict[object, int] = {}
        self._env: lmdb.Environment | None = None
        self._draining: lmdb.Environment | None = None
        # Whether transactions have slots. Once they have, the environment is never opened without.
        self.has_slots = not read_only
        self._needs_slots = needs_slots
        self.databases: dict[Table, Database] = {}
        self._open()

    def transaction(self, *, write: bool = False) -> "Transaction":
        """Return a transaction for a `with` block. It is committed at the end of the block.

        Raises, at its beginning, inside the block or at its end:
            StoreFull: the disk is full, or there is no address space for a larger map.
            StoreBusy: all slots are in use, or the environment was closed and cannot be opened.
            OSError: the disk failed.
            CorruptIndex: LMDB reports damage, or a signal handler has forked inside the block.
        """
        return Transaction(self, write=write)

    def database(self, table: Table) -> Database:
        """Return the LMDB database of a table, for use inside a transaction."""
        return self.databases[table]

    def has(self, table: Table) -> bool:
        """Whether the table exists. A read-only store of an older format lacks some."""
        return table in self.databases

    def snapshot_id(self) -> int:
        """Return the number of the last committed transaction."""
        with self.acquired() as env:
            return env.info()["last_txnid"]

    def close(self) -> None:
        if self._env is not None:
            self._env.close()

    # -- forks

    def reopen(self, deadline: float = math.inf) -> None:
        """Close LMDB's environment when no thread uses it; the next transaction opens it again.

        Transactions of this thread, in which a signal handler forks, end in `CorruptIndex`. If an
        exception interrupts this method, the environment is as before.

        Args:
            deadline: in monotonic seconds.

        Raises:
            TimeoutError: another thread still uses the environment at the deadline.
        """
        self.abort_transactions()
        with self._lock:
            while self._env is not None or self._draining is not None:
                if (env := self._drain(deadline)) is not None:
                    env.close()

    def after_fork_in_child(self) -> None:
        """Drop the locks and the transactions of threads that a forked child does not have."""
        self._lock = threading.RLock()
        for user, thread in list(self.alive.items()):
            if thread != get_ident():
                self.release(user)

    # -- for transactions

    def acquire(self, user: object) -> lmdb.Environment:
        """Return LMDB's environment, which stays as it is until `release`."""
        thread = get_ident()
        try:
            while True:
                # Without the lock, which would double the cost of a lookup. This is safe because
                # `_drain` first sets `_env` to None, and then waits until `alive` is empty.
                self.alive[user] = thread
                if (env := self._env) is not None:
                    return env
                if (env := self._draining) is not None and self._uses(thread) > 1:
                    return env  # waits for this thread's outer transaction, so must not wait for it
                self.release(user)
                if (env := self._reopened(user)) is not None:
                    return env
        except BaseException:
            self.release(user)
            raise

    def _reopened(self, user: object) -> lmdb.Environment | None:
        """Open the environment if it is closed; None if another thread may have closed it again."""
        while FORK_GATE.blocks():
            time.sleep(POLL_SECONDS)
        with self._lock:
            if self._draining is not None:
                # This thread is draining it, and a signal handler came.
                self.alive[user] = get_ident()
                return self._draining
            if self._env is None and not FORK_GATE.blocks():
                self._open()
        return None

    def release(self, user: object) -> None:
        """End a use of the environment that `acquire` began."""
        self.alive.pop(user, None)

    def in_transaction(self) -> bool:
        """Whether this thread has a transaction."""
        return bool(self.alive) and self._uses(get_ident()) > 0

    def abort_transactions(self) -> None:
        """Abort the transactions of this thread, which an asynchronous exception left behind."""
        thread = get_ident()
        for user, owner in list(self.alive.items()):
            if owner == thread:
                self.release(user)
                if isinstance(user, Transaction):
                    user.abort()

    def _uses(self, thread: int) -> int:
        return list(self.alive.values()).count(thread)

    @contextlib.contextmanager
    def acquired(self) -> Iterator[lmdb.Environment]:
        """Yield LMDB's environment, which stays as it is inside the block."""
        user = object()
        env = self.acquire(user)
        try:
            yield env
        finally:
            self.release(user)

    def free_slots(self, env: lmdb.Environment) -> None:
        """Free the slots of processes that ended. `env` is in use."""
        free_slots(env, self._folder)

    def recover(self, env: lmdb.Environment, problem: type[lmdb.Error]) -> bool:
        """Reopen the environment after MDB_PANIC, or resize its map.

        The calling thread must have no transaction and have released `env`.

        Returns:
            Whether to repeat the failed call; False for all other errors.

        Raises:
            StoreFull: the map cannot become larger.
        """
        if not issubclass(problem, lmdb.PanicError | lmdb.MapFullError | lmdb.MapResizedError):
            return False
        panicked = issubclass(problem, lmdb.PanicError)
        with self._lock:
            if self._env is not env:
                # Another thread has recovered it already, or this thread is about to.
                return self._draining is not env
            if (drained := self._drain()) is None:
                return True  # a signal handler has closed it, for a fork
            if panicked:
                drained.close()
                log.warning("the index was closed after a failed commit, and is opened again")
                return True
            try:
                # 0 is the size that another process chose, which has made the map larger.
                resized = issubclass(problem, lmdb.MapResizedError)
                drained.set_mapsize(0 if resized else 2 * drained.info()["map_size"])
            except (lmdb.Error, MemoryError, OverflowError) as exc:
                raise StoreFull(f"no space left in the index: its map cannot grow: {exc}") from exc
            finally:
                self._env = drained
        return True

    def _drain(self, deadline: float = math.inf) -> lmdb.Environment | None:
        """Take LMDB's environment when no thread uses it; others wait for a new one.

        The caller has the lock.

        Raises:
            TimeoutError: a thread still uses it at the deadline.
        """
        try:
            if self._draining is None:  # else a signal handler forks while this thread drains
                self._draining, self._env = self._env, None
            self._await_users(deadline)
        except BaseException:
            if self._draining is not None:
                self._env, self._draining = self._draining, None
            raise
        env, self._draining = self._draining, None
        return env

    def _await_users(self, deadline: float) -> None:
        while self.alive:
            if time.monotonic() > deadline:
                raise TimeoutError("a transaction of another thread takes long")
            # Not a condition variable: every transaction would have to notify it.
            time.sleep(POLL_SECONDS)

    def _open(self) -> None:
        self.has_slots = self.has_slots or (self._needs_slots and may_lock(self._folder))
        # Checked once: this process has written the pages since, or reads beside the one that did.
        is_first = not self.databases
        env, self.databases = open_lmdb(
            self._folder,
            read_only=self._read_only,
            map_size=self._map_size,
            with_slots=self.has_slots,
            check=is_first,
        )
        self._env = env
        if is_first and not self._read_only:
            drop_sums(self._folder)


class Transaction:
    """One LMDB transaction, alive inside its `with` block."""

    __slots__ = ("_environment", "_transaction", "_write", "env")

    def __init__(self, environment: Environment, *, write: bool) -> None:
        self._environment = environment
        self._write = write
        self.env: lmdb.Environment
        self._transaction: lmdb.Transaction[bytes]

    def __enter__(self) -> "lmdb.Transaction[bytes]":
        deadline = 0.0
        while True:
            self.env = self._environment.acquire(self)
            try:
                self._transaction = self.env.begin(write=self._write)
            except lmdb.ReadersFullError as exc:
                self._environment.free_slots(self.env)
                self._environment.release(self)
                deadline = deadline or time.monotonic() + SLOT_SECONDS
                if time.monotonic() > deadline:
                    raise StoreBusy("index: too many transactions at the same time") from exc
                time.sleep(POLL_SECONDS)
            except lmdb.Error as exc:
                self._environment.release(self)
                if not self._environment.recover(self.env, type(exc)):
                    raise translated(exc) from exc
            except BaseException:
                self._environment.release(self)
                raise
            else:
                return self._transaction

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self in self._environment.alive:  # else `abort_transactions` has ended it
            try:
                self._transaction.__exit__(kind, exc, traceback)
            except lmdb.Error as error:
                raise translated(error) from error
            finally:
                self._environment.release(self)
        if isinstance(exc, lmdb.Error):
            raise translated(exc) from exc

    def abort(self) -> None:
        """End the transaction out of turn. Its block ends without an effect."""
        if (transaction := getattr(self, "_transaction", None)) is not None:
            transaction.abort()
