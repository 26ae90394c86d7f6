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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from threading import get_ident
from typing import Final, NamedTuple

import lmdb

from modelfs.errors import CorruptIndex, StoreReadOnly
from modelfs.store.directory import Directory
from modelfs.store.index.environment import MAP_SIZE, Environment
from modelfs.store.index.memtable import Layer, Memtable, Unchanged, Undo
from modelfs.store.index.opening import Database, Databases
from modelfs.store.index.records import SUPERBLOCK, Inode, Superblock
from modelfs.store.index.row_checksum import checked, with_checksum
from modelfs.store.index.tables import ROOT, Table, number_key

# Rows read in one transaction: LMDB reuses no page that a transaction may still read.
SCAN_PAGE: Final = 1000
# Above every key: LMDB's longest is 511 bytes.
KEY_END: Final = b"\xff" * 512

# Two rows that every store has, and their lengths without checksums.
FIRST_ROWS: Final = (
    (Table.META, SUPERBLOCK, Superblock.LAYOUT.size),
    (Table.INODES, number_key(ROOT), Inode.LAYOUT.size),
)

Row = tuple[bytes, bytes]


class _Pin(NamedTuple):
    """The commit that a thread's reads see."""

    transaction: "lmdb.Transaction[bytes]"
    databases: Databases  # of a copy; otherwise empty, as those of the environment count


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
        self._pins: dict[int, _Pin] = {}  # by the thread whose reads use it
        # Whether the committed rows have checksums, as all do since format 4: False until the
        # first look. And how the next commit converts the rows that have none.
        self._with_checksums = False
        self._convert: Callable[[Table, bytes, bytes], bytes] | None = None
        self.folder = folder
        self._env = Environment(folder, read_only=read_only, map_size=map_size)

    def close(self) -> None:
        self._env.close()

    # -- reading

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return a row's value, None if there is no such row.

        Raises:
            CorruptIndex: the row does not match its checksum.
        """
        value = self._memtable.get(table, key)
        if not isinstance(value, Unchanged):
            return value
        if not self._env.has(table):
            return None
        with self._snapshot() as snapshot:
            return self._committed_value(snapshot, self._database, table, key)

    def scan(
        self,
        table: Table,
        start: bytes,
        stop: bytes,
        limit: int = SCAN_PAGE,
        *,
        damaged: set[bytes] | None = None,
    ) -> list[Row]:
        """Return the first `limit` rows whose keys are in `[start, stop)`, in order.

        Args:
            table: of the rows.
            start: the lowest key.
            stop: above the highest key.
            limit: the most rows.
            damaged: pass over rows that do not match their checksums, and add their keys to this.

        Raises:
            CorruptIndex: a row does not match its checksum, and there is no `damaged`.
        """
        rows: list[Row] = []
        while len(rows) < limit and start < stop:
            left = limit - len(rows)
            changed, end = self._memtable.changes(table, start, stop, left)
            page = self._committed(table, start, end, left, changed, damaged)
            if changed:
                page.extend((key, value) for key, value in changed.items() if value is not None)
                page = sorted(page)[:left]
            rows += page
            start = end
        return rows

    def pages(
        self,
        table: Table,
        start: bytes = b"",
        stop: bytes = KEY_END,
        *,
        damaged: set[bytes] | None = None,
    ) -> Iterator[Row]:
        """Yield every row whose key is in `[start, stop)`, in order.

        Rows are read `SCAN_PAGE` at a time, so changes made meanwhile may or may not show. For the
        arguments and exceptions see `scan`.
        """
        while rows := self.scan(table, start, stop, damaged=damaged):
            yield from rows
            if len(rows) < SCAN_PAGE:
                return
            start = rows[-1][0] + b"\0"

    def has(self, table: Table, key: bytes) -> bool:
        """Whether there is a row. It may not match its checksum."""
        value = self._memtable.get(table, key)
        if isinstance(value, Unchanged):
            value = self.stored(table, key)
        return value is not None

    def keys(self, table: Table, start: bytes = b"", stop: bytes = KEY_END) -> Iterator[bytes]:
        """Yield the keys in `[start, stop)` in order, except those of damaged rows."""
        return (key for key, _ in self.pages(table, start, stop, damaged=set()))

    def floor(self, table: Table, key: bytes, low: bytes) -> Row | None:
        """Return the last row whose key is in `[low, key]`, None if there is none.

        Raises:
            CorruptIndex: the row does not match its checksum.
        """
        for floor in self._floor_keys(table, key, low):
            if (value := self.get(table, floor)) is not None:
                return floor, value
        return None

    def floor_key(self, table: Table, key: bytes, low: bytes) -> bytes | None:
        """Return the last key in `[low, key]`, None if there is none."""
        keys = self._floor_keys(table, key, low)
        return next((floor for floor in keys if self.has(table, floor)), None)

    def _floor_keys(self, table: Table, key: bytes, low: bytes) -> Iterator[bytes]:
        """Yield the last key in `[low, key]`, of a row or of a deletion, then the one before it."""
        while key >= low and (floor := self._floor_key(table, key, low)) is not None:
            yield floor
            # A deleted row. Keys here are numbers of fixed length: the key before is one less.
            key = (int.from_bytes(floor, "big") - 1).to_bytes(len(floor), "big")

    def _floor_key(self, table: Table, key: bytes, low: bytes) -> bytes | None:
        # The last key in `[low, key]`, in LMDB or the memtable; its row may be a deletion.
        keys = self._memtable.floor_keys(table, key, low)
        if not self._env.has(table):
            return None
        with self._snapshot() as snapshot, snapshot.cursor(self._database(table)) as cursor:
            if cursor.set_range(key):
                exists = cursor.key() == key or cursor.prev()
            else:
                exists = cursor.last()
            if exists and cursor.key() >= low:
                keys.append(cursor.key())
        return max(keys, default=None)

    def _committed(
        self,
        table: Table,
        start: bytes,
        stop: bytes,
        limit: int,
        hidden: dict[bytes, bytes | None],
        damaged: set[bytes] | None,
    ) -> list[Row]:
        rows: list[Row] = []
        if not self._env.has(table):
            return rows
        with self._snapshot() as snapshot, snapshot.cursor(self._database(table)) as cursor:
            with_checksums = self._have_checksums(snapshot, self._database)
            for key, stored in cursor if cursor.set_range(start) else ():
                if key >= stop or len(rows) >= limit:
                    break
                if key in hidden:
                    continue
                try:
                    rows.append((key, checked(table, key, stored) if with_checksums else stored))
                except CorruptIndex:
                    if damaged is None:
                        raise
                    damaged.add(key)
        return rows

    def _committed_value(
        self,
        snapshot: "lmdb.Transaction[bytes]",
        database: Callable[[Table], Database],
        table: Table,
        key: bytes,
    ) -> bytes | None:
        stored = snapshot.get(key, db=database(table))
        if stored is None or not self._have_checksums(snapshot, database):
            return stored
        return checked(table, key, stored)

    def _have_checksums(
        self, snapshot: "lmdb.Transaction[bytes]", database: Callable[[Table], Database]
    ) -> bool:
        """Whether the rows of a snapshot have checksums; another process may have added them."""
        if not self._with_checksums:
            self._with_checksums = all(
                len(snapshot.get(key, b"", db=database(table))) != length
                for table, key, length in FIRST_ROWS
            )
        return self._with_checksums

    def _snapshot(self) -> "AbstractContextManager[lmdb.Transaction[bytes]]":
        if self._pins and (pin := self._pins.get(get_ident())) is not None:
            return nullcontext(pin.transaction)
        return self._env.transaction()

    def _database(self, table: Table) -> Database:
        if self._pins and (pin := self._pins.get(get_ident())) is not None and pin.databases:
            return pin.databases[table]
        return self._env.database(table)

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
        with self._env.transaction() as snapshot, self._pinned_to(_Pin(snapshot, {})):
            yield

    @contextmanager
    def copied(self) -> Iterator[None]:
        """Make this thread's reads inside the block see one commit, for as long as it takes.

        As `pinned`, but if another process may write the index, a copy of it is read: commits
        meanwhile reuse the pages that they free, and the index does not grow.

        Raises:
            StoreFull: no disk has room for the copy.
        """
        if not self.others_write or get_ident() in self._pins:
            with self.pinned():
                yield
            return
        copy = self._env.copy()
        try:
            with self._pinned_to(_Pin(copy.transaction, copy.databases)):
                yield
        finally:
            copy.close()

    @contextmanager
    def _pinned_to(self, pin: "_Pin") -> Iterator[None]:
        thread = get_ident()
        self._pins[thread] = pin
        try:
            yield
        finally:
            if self._pins.get(thread) is pin:
                del self._pins[thread]

    def get_newest(self, table: Table, key: bytes) -> bytes | None:
        """Return a row's value as of the last commit, even inside `pinned`."""
        if not self._read_only or not self._env.has(table):
            return self.get(table, key)
        with self._env.transaction() as snapshot:
            return self._committed_value(snapshot, self._env.database, table, key)

    def stored(self, table: Table, key: bytes) -> bytes | None:
        """Return a row's value as of the last commit, with its checksum, right or wrong."""
        if not self._env.has(table):
            return None
        with self._snapshot() as snapshot:
            return snapshot.get(key, db=self._database(table))

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
        undo = self._memtable.undo_of(table, key)
        *_, value, has_changed = undo
        if has_changed and value is None:
            return  # it is deleted already
        committed = self._memtable.sealed(table, key)
        if isinstance(committed, Unchanged):
            committed = self.stored(table, key)
        if committed is not None:
            self._set(table, key, None)
        elif has_changed:
            # No commit has the row. Its deletion would only stay in the memtable, for scans to step
            # over.
            self._undo_with(undo)
            self._memtable.drop(table, key)
            self._versions[table] += 1

    def _set(self, table: Table, key: bytes, value: bytes | None) -> None:
        # First the record: Ctrl-C may come as soon as the row has changed.
        self._undo_with(self._memtable.undo_of(table, key))
        self._memtable.set(table, key, value)
        self._versions[table] += 1

    def _undo_with(self, undo: Undo) -> None:
        """Record how to undo a change that is about to be made."""
        assert self._undo is not None, "changes are made inside change()"
        self._undo.append(undo)

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

    @property
    def uncommitted_seconds(self) -> float:
        """Age of the oldest change that no commit has made durable; 0 without one."""
        return self._memtable.age

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

    def add_checksums(self, convert: Callable[[Table, bytes, bytes], bytes]) -> None:
        """Convert every committed row, and give it a checksum, with the next commit.

        No other thread may read meanwhile. Does nothing if the rows have checksums.

        Args:
            convert: returns the new value of a row, from its table, key and value.
        """
        self._convert = convert

    def apply(self, changes: Layer) -> None:
        """Write changes to LMDB in one transaction; for `CommitBatch.write`."""

        def work(transaction: "lmdb.Transaction[bytes]") -> None:
            with_checksums = self._have_checksums(transaction, self._env.database)
            if self._convert is not None and not with_checksums:
                for table in changes:
                    self._add_checksums(transaction, table, self._convert)
                with_checksums = True
            for table, rows in changes.items():
                database = self._env.database(table)
                for key, value in rows.items():
                    if value is None:
                        transaction.delete(key, db=database)
                    else:
                        stored = with_checksum(table, key, value) if with_checksums else value
                        transaction.put(key, stored, db=database)

        self._env.write(work)
        self._convert = None

    def _add_checksums(
        self,
        transaction: "lmdb.Transaction[bytes]",
        table: Table,
        convert: Callable[[Table, bytes, bytes], bytes],
    ) -> None:
        database = self._env.database(table)
        start = b""
        while True:
            with transaction.cursor(database) as cursor:
                rows = list(islice(cursor, SCAN_PAGE)) if cursor.set_range(start) else []
            for key, value in rows:
                stored = with_checksum(table, key, convert(table, key, value))
                transaction.put(key, stored, db=database)
            if len(rows) < SCAN_PAGE:
                return
            start = rows[-1][0] + b"\0"

    def compact(self) -> None:
        """Give unused pages back to the disk, if most are unused: see `Environment.compact`."""
        self._env.compact()

    def sync(self) -> None:
        """Make the last commit durable: its process may have been killed in the middle of it.

        Raises:
            OSError: the disk failed; the commit may or may not be durable.
        """
        self._env.sync()

    def snapshot_id(self) -> int:
        """Return the number of the commit that reads see: the last one, or the pinned one."""
        pin = self._pins.get(get_ident())
        return self._env.snapshot_id() if pin is None else pin.transaction.id()

    def reopen(self, deadline: float = math.inf) -> None:
        """Close LMDB's environment; the next read opens it again, as it is on the disk by then.

        Waits for the reads of other threads, and ends those of this thread with an error.

        Raises:
            TimeoutError: a read lasts beyond the deadline, in monotonic seconds.
        """
        self._env.reopen(deadline)
        self._with_checksums = False

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

    def abort_reads(self, *, unpin: bool = False) -> None:
        """Make the reads of this thread raise an error, up to the end of its `pinned`.

        Args:
            unpin: Ctrl-C has left `pinned` behind, so end it, too.
        """
        if unpin:
            self._pins.pop(get_ident(), None)
        self._env.abort_transactions()

    @property
    def size(self) -> int:
        """Bytes of the index that are in use, as of the last commit."""
        return self._env.used()
