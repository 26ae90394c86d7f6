"""The open stores of a process: shared by all of its readers, and dropped by a fork's child.

Theory of operation. A process may open an LMDB environment only once, and may not use it across a
fork. So all readers of a folder in one process share an open store. It stays open as long as
something refers to it: a connection that is not closed, or a call in progress. References are not
counted here, so no count is wrong when Ctrl-C ends a call at any point.

Before the process forks, transactions of other threads end and LMDB's environments are closed;
reads of bytes continue. Ctrl-C does not shorten that: CPython would fork all the same. Afterwards
the parent opens the environments again when it needs them. The child drops all stores, since other
threads may have held their locks, and opens its own.

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
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, TypeVar

from modelfs.errors import NotAStore, StoreBusy
from modelfs.store.folder import INDEX, PACKS, open_folder, read_superblock
from modelfs.store.index.fork_gate import FORK_GATE
from modelfs.store.index.pages.data_file import DATA_FILE
from modelfs.store.store import Store

# Decoded chunks in memory, in bytes. Less than in a mount: each core may run a process.
CACHE_SIZE: Final = 64 << 20
# Of a hook of a fork, each ended by an exception such as `KeyboardInterrupt`.
ATTEMPTS_MAX: Final = 10_000
POLL_SECONDS: Final = 0.001
# How long a fork waits at first for transactions of other threads, before it lets them go on.
PATIENCE_SECONDS: Final = 0.05

C = TypeVar("C", bound=Callable[..., Any])
StoreIdentity = tuple[int, int, int, int]

_CALLS: Final[list[CodeType]] = []  # of the functions that `store_call` marks


def store_call(function: C) -> C:
    """Mark a function as a call that uses a `SharedStore` from its beginning to its end.

    A signal handler may run on the thread of such a call, make a call of its own, or fork. Then the
    transactions and the open folders of the outer call stay.
    """
    _CALLS.append(function.__code__)
    return function


def _is_in_call(frame: FrameType | None) -> bool:
    """Whether a frame, or one that it returns to, is that of a call."""
    while frame is not None:
        if frame.f_code in _CALLS:
            return True
        frame = frame.f_back
    return False


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


class SuperblockChanged(Exception):
    """The superblock in the index is not that of the opened store."""


class SharedStore:
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
        """Raise `SuperblockChanged` if the superblock is not that of the opened store."""
        if read_superblock(self.store.index) != self.store.superblock:
            raise SuperblockChanged
        self.store.follow_session()

    def end_call(self) -> None:
        """End the transactions of this thread that Ctrl-C left behind."""
        rows = self.store.index.rows
        call = sys._getframe(1)
        if rows.in_transaction() and not _is_in_call(call.f_back):
            rows.abort_reads(unpin=True)


class OpenStores:
    """The open stores of this process."""

    def __init__(self) -> None:
        self._number = os.getpid()
        # Of all that follows. A signal handler may fork on the thread that holds it.
        self.lock = threading.RLock()
        self.forks = 0  # of this process and of its ancestors
        self._stores: dict[StoreIdentity | None, tuple[weakref.ref[SharedStore], Store]] = {}

    def store(self, folder: Path, *, trust: bool) -> SharedStore:
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
            opened = SharedStore(folder, trust=trust)
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

    def renew(self, shared: SharedStore) -> None:
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
                if not _is_in_call(sys._getframe()):
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


OPEN_STORES: Final = OpenStores()
for _ in range(2):  # in case that an exception comes between two attempts of the first hook
    os.register_at_fork(
        before=OPEN_STORES.before_fork, after_in_child=OPEN_STORES.after_fork_in_child
    )
os.register_at_fork(after_in_parent=FORK_GATE.open, after_in_child=FORK_GATE.open)
