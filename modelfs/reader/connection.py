"""A connection of a reader and its files to their store: the calls that read it.

Theory of operation. A call has two parts. It *plans* inside one LMDB transaction, so it reads the
index as of one commit, the last one. Then it *reads* the planned bytes, outside the transaction, so
a long read keeps no old pages of the index. gc may move chunks meanwhile: `ChunkReader` follows
moves. If that fails because the file itself has changed, the call plans again, up to `PLANS_MAX`
times in all.

Packs are open only during a call: an idle reader does not keep the disk space of deleted packs.

LMDB notes each transaction in its lock file, so that no commit reuses a page that is being read. A
reader without permission to write that file excludes writers during each call, and raises
`StoreBusy` if there is a writer.

Example. A read of 1 MB is planned at commit 8: chunk 3, in pack 1. Before its bytes are read, a
program writes the file again, commit 9 has chunk 4 in its place, and gc deletes chunk 3 with pack
1. The read fails, and the last commit is not 8 any more. So the call plans once more, at commit 9,
and returns the new bytes.

The store itself belongs to the process, and is opened by the first call: see `process`.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Self, TypeVar

from modelfs.errors import CorruptData, IrregularFile, NotAStore, StoreBusy, StoreNotTrusted
from modelfs.reader.open_stores import OPEN_STORES, SharedStore, SuperblockChanged, store_call
from modelfs.store.files import parallel
from modelfs.store.files.read_runs import ReadRun
from modelfs.store.store import Store

T = TypeVar("T")
P = TypeVar("P")
Plan = Callable[[Store], list[ReadRun]]
Check = Callable[[Store], object]

# Damage fails in every plan. A writer would have to change the file during each of so many reads.
PLANS_MAX: Final = 4
# A plan that failed because staged bytes went into chunks counts as so much of one: during a long
# read, ingest commits one region of the file after the other.
MOVED_PART: Final = 1 / 64


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
        self._shared: SharedStore | None = None
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

    def call_unpinned(self, function: Callable[[Store], T]) -> T:
        """Call a function that may take long, and reads the store's folders but not its index.

        Raises: as `call`.
        """
        return self._carry_out(lambda _: None, lambda store, _: function(store))

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

    @store_call
    def _carry_out(self, plan: Callable[[Store], P], read: Callable[[Store, P], T]) -> T:
        plans_left = float(PLANS_MAX)
        while True:
            shared, forks = self._open(), OPEN_STORES.forks
            commit = -1
            try:
                with shared.store.exclusion.excluding_writers():
                    with shared.store.index.rows.pinned():
                        commit = shared.store.index.rows.snapshot_id()
                        shared.check_superblock()
                        planned = plan(shared.store)
                    return read(shared.store, planned)
            except SuperblockChanged:
                self._shared = None
                OPEN_STORES.renew(shared)
            except StoreBusy:
                if not shared.store.exclusion.gain_slots():
                    raise
            except (CorruptData, FileNotFoundError) as exc:
                # Since the commit a chunk may have moved, or the file may have been truncated or
                # ingested. Or a signal handler forked on this thread, which ends a transaction.
                changed = (
                    forks != OPEN_STORES.forks or commit != shared.store.index.rows.snapshot_id()
                )
                # Bytes that went into chunks do so once.
                plans_left -= MOVED_PART if isinstance(exc, FileNotFoundError) else 1
                if not changed or plans_left <= 0:
                    raise
            finally:
                if shared.process == os.getpid():
                    shared.store.close_files()
                    shared.end_call()
                del shared  # the traceback of an error would keep the store open
                if self._closed:
                    OPEN_STORES.close_unused()

    def _open(self) -> SharedStore:
        shared = self._shared
        if shared is None or shared.process != os.getpid() or not shared.is_there():
            with OPEN_STORES.lock:
                if self._closed:
                    raise ValueError(f"the reader of {self.folder} is closed")
                self._shared = None
                try:
                    shared = OPEN_STORES.store(self.folder, trust=self._trust)
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
        with OPEN_STORES.lock:
            self._closed = True
            self._shared = None
        OPEN_STORES.close_unused()


def _run_pinned(check: Check | None, store: Store) -> None:
    if check is not None:
        with store.index.rows.pinned():
            check(store)
