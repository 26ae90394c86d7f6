"""The index: sorted tables in LMDB, and in memory the changes since its last commit.

Theory of operation. An LMDB commit costs an fsync, and a write transaction belongs to the thread
that began it; requests can afford neither. So changes go to a *memtable* (the idea of
log-structured merge trees: O'Neil et al., 1996), and a commit has three steps:

1. `seal()`: the active layer of the memtable becomes the sealed layer, and an empty one takes its
   place. Instant.
2. `CommitBatch.write()`: one LMDB transaction applies the sealed layer and syncs. Any thread.
3. `release()`: the sealed layer is dropped, since LMDB now has its rows.

A read looks in the active layer, then in the sealed one, then in LMDB. In this order it sees every
change, and the last one of each row, at every step of a commit. Changes made between two seals
reach the disk together or not at all. `change()` makes one operation atomic: if its block raises,
its changes are undone. If Ctrl-C interrupts a block, a row may be half changed, so the index
refuses all commits until it is opened again.

One thread makes all changes; any thread may read. No lock is held during a read of LMDB.

Example. A rename changes three rows inside one `change()`; another request creates a file; an fsync
makes the daemon seal both. While a thread writes them, a third request removes the file: that is in
the next commit, and reads see it at once.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import get_ident
from typing import Final

import lmdb

from modelfs.errors import StoreReadOnly
from modelfs.store.directory import Directory
from modelfs.store.index.environment import MAP_SIZE, Environment
from modelfs.store.index.memtable import Layer, Memtable, Unchanged, Undo
from modelfs.store.index.tables import Table

# Rows read in one transaction: LMDB reuses no page that a transaction may still read.
SCAN_PAGE: Final = 1000
# Above every key: LMDB's longest is 511 bytes.
KEY_END: Final = b"\xff" * 512

Row = tuple[bytes, bytes]


class CommitBatch:
    """The sealed changes of one commit."""

    def __init__(self, index: "Index", changes: Layer) -> None:
        self._index = index
        self._changes = changes

    def write(self) -> None:
        """Apply the changes to LMDB and make them durable. Any thread, one at a time.

        Raises:
            StoreFull: the disk or the map is full. Nothing was written; the changes stay sealed
                and visible, and the next batch includes them.
            OSError, CorruptIndex: as `Environment.transaction`; the same holds.
        """
        self._index.apply(self._changes)


class Index:
    """Sorted tables of bytes to bytes, changed in atomic groups."""

    def __init__(
        self,
        folder: Directory,
        *,
        read_only: bool = False,
        exclude_writers: bool = False,
        map_size: int = MAP_SIZE,
    ) -> None:
        """Open the index of a store.

        Args:
            folder: of the LMDB environment.
            read_only: refuse changes.
            exclude_writers: with `read_only`, the caller keeps other processes from writing the
                index, so `version` needs no look at the last commit.
            map_size: address space for LMDB's map, in bytes. It grows when it is full.

        Raises:
            CorruptIndex: the index is damaged; `IndexLost` if nothing of it can be read.
            OSError: the disk failed.
        """
        self._read_only = read_only
        self.others_write = read_only and not exclude_writers
        self._memtable = Memtable()
        self._undo: list[Undo] | None = None  # of the change in progress
        self._torn = False  # whether a change was interrupted
        self._versions = dict.fromkeys(Table, 0)
        self._pins: dict[int, lmdb.Transaction[bytes]] = {}  # by the thread whose reads use it
        self.folder = folder
        self._env = Environment(folder, read_only=read_only, map_size=map_size)

    def close(self) -> None:
        self._env.close()

    # -- reading

    def get(self, table: Table, key: bytes) -> bytes | None:
        value = self._memtable.get(table, key)
        if not isinstance(value, Unchanged):
            return value
        if not self._env.has(table):
            return None
        with self._snapshot() as snapshot:
            return snapshot.get(key, db=self._env.database(table))

    def scan(self, table: Table, start: bytes, stop: bytes, limit: int = SCAN_PAGE) -> list[Row]:
        """Return the first `limit` rows whose keys are in `[start, stop)`, in order."""
        changed, stop = self._memtable.changes(table, start, stop, limit)
        rows = self._committed(table, start, stop, limit, changed)
        if not changed:
            return rows
        rows.extend((key, value) for key, value in changed.items() if value is not None)
        return sorted(rows)[:limit]

    def pages(self, table: Table, start: bytes = b"", stop: bytes = KEY_END) -> Iterator[Row]:
        """Yield every row whose key is in `[start, stop)`, in order.

        Rows are read `SCAN_PAGE` at a time, so changes made meanwhile may or may not show.
        """
        while rows := self.scan(table, start, stop):
            yield from rows
            if len(rows) < SCAN_PAGE:
                return
            start = rows[-1][0] + b"\0"

    def floor(self, table: Table, key: bytes, low: bytes) -> Row | None:
        """Return the last row whose key is in `[low, key]`, None if there is none."""
        while True:
            floor = self._floor_key(table, key, low)
            if floor is None:
                return None
            if (value := self.get(table, floor)) is not None:
                return floor, value
            # A deleted row. Keys here are numbers of fixed length: the key before is one less.
            key = (int.from_bytes(floor, "big") - 1).to_bytes(len(floor), "big")
            if key < low:
                return None

    def _floor_key(self, table: Table, key: bytes, low: bytes) -> bytes | None:
        # The last key in `[low, key]`, in LMDB or the memtable; its row may be a deletion.
        keys = self._memtable.floor_keys(table, key, low)
        if not self._env.has(table):
            return None
        with self._snapshot() as snapshot, snapshot.cursor(self._env.database(table)) as cursor:
            if cursor.set_range(key):
                exists = cursor.key() == key or cursor.prev()
            else:
                exists = cursor.last()
            if exists and cursor.key() >= low:
                keys.append(cursor.key())
        return max(keys, default=None)

    def _committed(
        self, table: Table, start: bytes, stop: bytes, limit: int, hidden: dict[bytes, bytes | None]
    ) -> list[Row]:
        rows: list[Row] = []
        if not self._env.has(table):
            return rows
        with self._snapshot() as snapshot, snapshot.cursor(self._env.database(table)) as cursor:
            if cursor.set_range(start):
                for key, value in cursor:
                    if key >= stop or len(rows) >= limit:
                        break
                    if key not in hidden:
                        rows.append((key, value))
        return rows

    def _snapshot(self) -> "AbstractContextManager[lmdb.Transaction[bytes]]":
        if self._pins and (pin := self._pins.get(get_ident())) is not None:
            return nullcontext(pin)
        return self._env.transaction()

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Make this thread's reads inside the block see one commit of another process.

        On an index that is open for writing this does nothing, since only its owner changes it. A
        nested block uses the commit of the outer one.
        """
        thread = get_ident()
        if not self._read_only or thread in self._pins:
            yield
            return
        with self._env.transaction() as snapshot:
            self._pins[thread] = snapshot
            try:
                yield
            finally:
                if self._pins.get(thread) is snapshot:
                    del self._pins[thread]

    def get_newest(self, table: Table, key: bytes) -> bytes | None:
        """Return a row's value as of the last commit, even inside `pinned`."""
        if not self._read_only or not self._env.has(table):
            return self.get(table, key)
        with self._env.transaction() as snapshot:
            return snapshot.get(key, db=self._env.database(table))

    def version(self, table: Table) -> int:
        """Return a number that changes whenever the table may have changed.

        While it stays, rows that were read before are current. If another process may write the
        index, it changes with every commit.
        """
        return self.snapshot_id() if self.others_write else self._versions[table]

    # -- changing

    @contextmanager
    def change(self) -> Iterator[None]:
        """Group changes: all of them are made, or none if the block raises.

        A nested block is part of the outer one.

        Raises:
            StoreReadOnly: the index is open for reading only.
            KeyboardInterrupt: an earlier change was interrupted, as for `seal`.
        """
        if self._undo is not None:
            yield
            return
        if self._read_only:
            raise StoreReadOnly("the store is open for reading only")
        self._check_untorn()
        self._undo = []
        try:
            yield
        except BaseException as exc:
            # Anything but an `Exception` may come between any two instructions, also of this undo.
            self._torn = self._torn or not isinstance(exc, Exception)
            self._memtable.undo(self._undo)
            for table, *_ in self._undo:
                self._versions[table] += 1
            self._undo = None
            raise
        self._undo = None

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self._set(table, key, value)

    def delete(self, table: Table, key: bytes) -> None:
        """Remove `key`; it need not exist."""
        # The deletion of no row would only stay in the memtable, for scans to step over.
        if self.get(table, key) is not None:
            self._set(table, key, None)

    def _set(self, table: Table, key: bytes, value: bytes | None) -> None:
        assert self._undo is not None, "changes are made inside change()"
        # First the record: Ctrl-C may come as soon as the row has changed.
        self._undo.append(self._memtable.undo_of(table, key))
        self._memtable.set(table, key, value)
        self._versions[table] += 1

    def _check_untorn(self) -> None:
        if self._torn:
            raise KeyboardInterrupt("a change of the index was interrupted; open the store again")

    # -- committing

    @property
    def dirty(self) -> bool:
        """Whether there are changes that no commit has made durable."""
        return self._memtable.dirty

    @property
    def changes(self) -> int:
        """How many rows have changed since the last seal."""
        return len(self._memtable)

    @property
    def uncommitted_bytes(self) -> int:
        """Memory of the changes that no commit has made durable, about."""
        return self._memtable.memory

    def uncommitted_seconds(self) -> float:
        """Return the age of the oldest change that no commit has made durable; 0 without one."""
        return self._memtable.age()

    def seal(self) -> CommitBatch:
        """Begin a commit of every change made so far.

        The batch before was either released, or its write failed. Then its changes are part of this
        one.

        Raises:
            KeyboardInterrupt: Ctrl-C has interrupted a change. No commit is possible any more; the
                changes since the last one are lost, as after a crash.
        """
        self._check_untorn()
        assert self._undo is None, "sealed in the middle of a change"
        return CommitBatch(self, self._memtable.seal())

    def release(self) -> None:
        """End a commit whose batch was written."""
        self._memtable.release()

    def commit(self) -> None:
        """Do all three steps of a commit on this thread. Raises as `CommitBatch.write`."""
        if self.dirty:
            self.seal().write()
            self.release()

    def apply(self, changes: Layer) -> None:
        """Write changes to LMDB in one transaction; for `CommitBatch.write`."""

        def work(transaction: "lmdb.Transaction[bytes]") -> None:
            for table, rows in changes.items():
                database = self._env.database(table)
                for key, value in rows.items():
                    if value is None:
                        transaction.delete(key, db=database)
                    else:
                        transaction.put(key, value, db=database)

        self._env.write(work)

    def sync(self) -> None:
        """Make the last commit durable: its process may have been killed in the middle of it.

        Raises:
            OSError: the disk failed; the commit may or may not be durable.
        """
        self._env.sync()

    def snapshot_id(self) -> int:
        """Return the number of the commit that reads see: the last one, or the pinned one."""
        pin = self._pins.get(get_ident())
        return self._env.snapshot_id() if pin is None else pin.id()

    def reopen(self, deadline: float = math.inf) -> None:
        """Close LMDB's environment; the next read opens it again, as it is on the disk by then.

        Waits for the reads of other threads, and ends those of this thread with an error.

        Raises:
            TimeoutError: a read lasts beyond the deadline, in monotonic seconds.
        """
        self._env.reopen(deadline)

    def after_fork_in_child(self) -> None:
        """Drop the locks and the reads of threads that a forked child does not have."""
        self._env.after_fork_in_child()

    @property
    def has_slots(self) -> bool:
        """Whether reads have slots in LMDB's lock file: otherwise no writer may be at work."""
        return self._env.has_slots

    def in_transaction(self) -> bool:
        """Whether this thread is inside a read, or inside `pinned`."""
        return get_ident() in self._pins or self._env.in_transaction()

    def interrupt_reads(self) -> None:
        """Make the reads of this thread raise an error, up to the end of its `pinned`."""
        self._env.abort_transactions()

    def abort_transactions(self) -> None:
        """End the reads of this thread, and its `pinned`, that Ctrl-C left behind."""
        self._pins.pop(get_ident(), None)
        self._env.abort_transactions()

    @property
    def size(self) -> int:
        """Bytes of the index that are in use, as of the last commit."""
        return self._env.used()
