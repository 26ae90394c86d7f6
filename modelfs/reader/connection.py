"""A store that all readers of a process share.

Theory of operation. A process may open an LMDB environment only once, and may not use it across a
fork. So all readers of a folder in one process share an open store. It stays open as long as
something refers to it: a connection that is not closed, or a call in progress. References are not
counted here, so no count is wrong when Ctrl-C ends a call at any point.

A call has two parts. It *plans* inside one LMDB transaction, so it reads the index as of one
commit, the last one. Then it *reads* the planned bytes, outside the transaction, so a long read
keeps no old pages of the index. gc may move chunks meanwhile: `ChunkReader` follows moves. If that
fails because the file itself has changed, the call plans again, up to `PLANS_MAX` times in all.

Before the process forks, transactions of other threads end and LMDB's environments are closed;
reads of bytes continue. Ctrl-C does not shorten that: CPython would fork all the same. Afterwards
the parent opens the environments again when it needs them. The child drops all stores, since other
threads may have held their locks, and opens its own.

Packs are open only during a call: an idle reader does not keep the disk space of deleted packs.

LMDB notes each transaction in its lock file, so that no commit reuses a page that is being read. A
reader without permission to write that file excludes writers during each call, and raises
`StoreBusy` if there is a writer.

Each call compares the store in the folder with the store that was opened: index and packs of two
stores must not be mixed, and numbers of inodes and chunks belong to one store.

Example. A data loader opens a reader, and forks four workers while another thread reads a tensor of
10 GB. The fork does not wait for that read. The first call in each of the five processes opens the
store again. docs/design/forks.md has all rules about forks and Ctrl-C.
"""

import os
import sys
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Final, Self, TypeVar

from modelfs.errors import CorruptData, IrregularFile, NotAStore, StoreBusy, StoreNotTrusted
from modelfs.store.files import parallel
from modelfs.store.files.content import ReadRun
from modelfs.store.folder import INDEX, PACKS, open_folder, read_superblock
from modelfs.store.index.data_file import DATA_FILE
from modelfs.store.index.fork_gate import FORK_GATE
from modelfs.store.store import Store

T = TypeVar("T")
P = TypeVar("P")
Plan = Callable[[Store], list[ReadRun]]
Check = Callable[[Store], object]

# Decoded chunks in memory, in bytes. Less than in a mount: each core may run a process.
CACHE_SIZE: Final = 64 << 20
# Damage fails in every plan. A writer would have to change the file during each of so many reads.
PLANS_MAX: Final = 4
# Of a hook of a fork, each ended by an exception such as `KeyboardInterrupt`.
ATTEMPTS_MAX: Final = 10_000
POLL_SECONDS: Final = 0.001
# How long a fork waits at first for transactions of other threads, before it lets them go on.
PATIENCE_SECONDS: Final = 0.05


class Connection:
    """The connection of a reader and its files to their store. Any thread.

    A connection pickles as the path and the UUID of its store, with `trust`. A pickle of a closed
    one is open.
    """

    def __init__(self, folder: Path, uuid: bytes | None = None, *, trust: bool = False) -> None:
        """Prepare a connection; the first call opens the store.

        Args:
            folder: of the store.
            uuid: of the store that must be there; None: that of the first call.
            trust: see `Store`.
        """
        self.folder = folder
        self._trust = trust
        self._uuid = uuid
        self._shared: _SharedStore | None = None
        self._closed = False

    @property
    def identity(self) -> tuple[Path, bytes | None]:
        """The store: its folder, and its UUID once a call was made."""
        return self.folder, self._uuid

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Path, bytes | None]]:
        return partial(type(self), trust=self._trust), self.identity

    def call(self, function: Callable[[Store], T]) -> T:
        """Call a function that reads the index, at one commit.

        Raises:
            ValueError: the connection is closed.
            NotAStore: the store does not exist, or another one has replaced it.
            UnsupportedFormat, StoreBusy, CorruptIndex: the store cannot be opened.
        """
        return self._carry_out(function, lambda _, result: result)

    def read(self, plan: Plan, check: Check | None = None) -> bytes:
        """Return the bytes of a plan.

        Args:
            plan: of the read, at one commit.
            check: called after the read, at the last commit by then. Its error is the read's.

        Raises:
            ValueError, NotAStore, UnsupportedFormat, StoreBusy, CorruptIndex: as `call`.
            CorruptChunk: the bytes are damaged.
            LostBytes: the disk has lost some of them.
            OSError: the disk failed.
        """

        def gather(store: Store, runs: list[ReadRun]) -> bytes:
            data = parallel.gather(store.contents, runs)
            _run_pinned(check, store)
            return data

        return self._carry_out(plan, gather)

    def read_into(self, plan: Plan, into: memoryview, check: Check | None = None) -> int:
        """Read the bytes of a plan into a buffer, and return their number. As `read`."""

        def fill(store: Store, runs: list[ReadRun]) -> int:
            size = sum(run.size for run in runs)
            parallel.fill(store.contents, runs, into[:size])
            _run_pinned(check, store)
            return size

        return self._carry_out(plan, fill)

    def _carry_out(self, plan: Callable[[Store], P], read: Callable[[Store, P], T]) -> T:
        plans_left = PLANS_MAX
        while True:
            shared, forks = self._open(), _process.forks
            commit = -1
            try:
                with shared.store.exclusion.excluding_writers():
                    with shared.store.index.rows.pinned():
                        commit = shared.store.index.rows.snapshot_id()
                        shared.check_superblock()
                        planned = plan(shared.store)
                    return read(shared.store, planned)
            except _SuperblockChanged:
                self._shared = None
                _process.renew(shared)
            except StoreBusy:
                if not shared.store.exclusion.gain_slots():
                    raise
            except (CorruptData, FileNotFoundError):
                # Since the commit a chunk may have moved, or the file may have been truncated or
                # ingested. Or a signal handler forked on this thread, which ends a transaction.
                changed = forks != _process.forks or commit != shared.store.index.rows.snapshot_id()
                plans_left -= 1
                if not changed or not plans_left:
                    raise
            finally:
                if shared.process == os.getpid():
                    shared.store.close_files()
                    shared.end_call()
                del shared  # the traceback of an error would keep the store open
                if self._closed:
                    _process.close_unused()

    def _open(self) -> "_SharedStore":
        shared = self._shared
        if shared is None or shared.process != os.getpid() or not shared.is_there():
            with _process.lock:
                if self._closed:
                    raise ValueError(f"the reader of {self.folder} is closed")
                self._shared = None
                try:
                    shared = _process.store(self.folder, trust=self._trust)
                except IrregularFile:
                    raise
                except StoreNotTrusted as exc:
                    hint = "to open it, if you trust all who can write in it: trust=True"
                    raise StoreNotTrusted(f"{exc}; {hint}") from exc
                self._uuid = self._uuid or shared.uuid
                if shared.uuid != self._uuid:
                    raise NotAStore(f"{self.folder} was replaced by another store")
                self._shared = shared
        return shared

    def close(self) -> None:
        """Close the connection. Calls in progress end as if it were open."""
        with _process.lock:
            self._closed = True
            self._shared = None
        _process.close_unused()


def _run_pinned(check: Check | None, store: Store) -> None:
    if check is not None:
        with store.index.rows.pinned():
            check(store)


StoreIdentity = tuple[int, int, int, int]


def _identity(folder: str) -> StoreIdentity | None:
    """Return the identity of the store in a folder, None if there is none.

    It has the inode numbers of the parts that a restored backup replaces. The two folders stay
    open, so no others get their numbers.
    """
    try:
        data = os.stat(f"{folder}/{INDEX}/{DATA_FILE}")
        index, packs = os.stat(f"{folder}/{INDEX}"), os.stat(f"{folder}/{PACKS}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return data.st_dev, data.st_ino, index.st_ino, packs.st_ino


class _SharedStore:
    """An open store, for as long as something refers to it."""

    def __init__(self, folder: Path, *, trust: bool) -> None:
        self.process = os.getpid()
        self.folder = str(folder)
        self.identity = _identity(self.folder)
        self.store = Store(folder, read_only=True, cache_size=CACHE_SIZE, trust=trust)
        self.store.unlock()
        self.uuid = self.store.superblock.uuid
        self.is_replaced = False  # by another store, whose index has the same identity

    def is_there(self) -> bool:
        """Whether the folder has the index that was opened."""
        return not self.is_replaced and _identity(self.folder) == self.identity

    def check_superblock(self) -> None:
        """Raise `_SuperblockChanged` if the superblock is not that of the opened store."""
        if read_superblock(self.store.index) != self.store.superblock:
            raise _SuperblockChanged
        self.store.follow_session()

    def end_call(self) -> None:
        """End the transactions of this thread that Ctrl-C left behind."""
        rows = self.store.index.rows
        call = sys._getframe(1)
        if rows.in_transaction() and not _is_running(call.f_code, call.f_back):
            rows.abort_reads(unpin=True)


class _SuperblockChanged(Exception):
    """The superblock in the index is not that of the opened store."""


def _is_running(code: CodeType, frame: FrameType | None) -> bool:
    """Whether a frame, or one that it returns to, runs this code: a call inside a call."""
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False


class _Process:
    """The open stores of this process."""

    def __init__(self) -> None:
        self._number = os.getpid()
        # Of all that follows. A signal handler may fork on the thread that holds it.
        self.lock = threading.RLock()
        self.forks = 0  # of this process and of its ancestors
        self._stores: dict[StoreIdentity | None, tuple[weakref.ref[_SharedStore], Store]] = {}

    def store(self, folder: Path, *, trust: bool) -> _SharedStore:
        """Return the open store of a folder. The caller has the lock.

        Raises: as `Store`; NotAStore if the folder does not exist.
        """
        if not folder.exists():
            raise NotAStore(f"{folder} does not exist")
        open_folder(folder, read_only=True, trust=trust).close()  # it may be open with trust
        key = _identity(str(folder))
        self.close_unused()
        if key in self._stores:
            shared = self._stores[key][0]()
            if shared is not None:
                return shared
            self.close_unused()
        try:
            opened = _SharedStore(folder, trust=trust)
        except StoreBusy:
            if key in self._stores:  # a signal handler has opened it meanwhile
                return self.store(folder, trust=trust)
            raise
        try:
            self._stores[key] = weakref.ref(opened), opened.store
        except BaseException:  # Ctrl-C
            opened.store.close()
            raise
        return opened

    def renew(self, shared: _SharedStore) -> None:
        """Open a store's index again, because its superblock has changed.

        Either a newer version of modelfs has changed the format, which adds tables. Or, after a
        fork, the file system gave the index of another store the number of the deleted one.

        Raises:
            UnsupportedFormat: the format is newer than this version of modelfs.
        """
        with self.lock, shared.store.exclusion.excluding_writers():
            if not shared.store.reload():
                shared.is_replaced = True
                if self._stores.get(shared.identity, (None, None))[1] is shared.store:
                    del self._stores[shared.identity]

    def close_unused(self) -> None:
        """Close the stores that nothing refers to."""
        with self.lock:
            for key, (shared, store) in list(self._stores.items()):
                if shared() is None:
                    store.close()
                    del self._stores[key]

    def before_fork(self) -> None:
        """Close all environments until the fork is done."""
        _insist(self._close_environments)

    def _close_environments(self) -> None:
        patience = PATIENCE_SECONDS

        def reopen_all() -> None:
            self.forks += 1
            deadline = time.monotonic() + patience
            for _, store in self._stores.values():
                store.index.rows.reopen(deadline)

        while not FORK_GATE.is_closed():
            for _, store in list(self._stores.values()):
                store.index.rows.abort_reads()  # a thread that has the lock may wait for them
            try:
                with self.lock:
                    FORK_GATE.close(reopen_all)
            except TimeoutError:
                # A signal handler, or `__del__`, in the transaction of another thread may wait for
                # the lock. Each attempt is longer, so that it succeeds if none waits.
                patience *= 2
                time.sleep(POLL_SECONDS)
            while FORK_GATE.blocks():
                time.sleep(POLL_SECONDS)  # another thread forks

    def after_fork_in_child(self) -> None:
        """Drop the stores of the parent."""
        _insist(self._drop_stores)

    def _drop_stores(self) -> None:
        if self._number != os.getpid():
            for _, store in self._stores.values():
                store.exclusion.end_all()  # a lock lasts until every process has closed it
                store.index.environment.after_fork_in_child()
                if not _is_running(Connection._carry_out.__code__, sys._getframe()):
                    store.close_folders()  # else a signal handler has forked inside a call
            self.lock = threading.RLock()
            self._stores.clear()
            self._number = os.getpid()


def _insist(step: Callable[[], None]) -> None:
    """Repeat a step until no exception such as `KeyboardInterrupt` ends it.

    Raises:
        BaseException: the last interruption, after the step was done.
    """
    interruption: BaseException | None = None
    try:
        for _ in range(ATTEMPTS_MAX):
            try:
                step()
                break
            except BaseException as exc:
                interruption = exc
        if interruption is not None:
            raise interruption
    finally:
        interruption = None  # its traceback has this frame


_process = _Process()
for _ in range(2):  # in case that an exception comes between two attempts of the first hook
    os.register_at_fork(before=_process.before_fork, after_in_child=_process.after_fork_in_child)
os.register_at_fork(after_in_parent=FORK_GATE.open, after_in_child=FORK_GATE.open)
