"""The committed rows of an index: those in LMDB, without the changes in memory.

A read sees the last commit, unless its thread is *pinned* to one. It compares each row with its
checksum. Rows of formats 1 to 3 have none until an upgrade adds them, which another process may do
at any time; the lengths of two rows show whether that has happened.

Example. `fsck` runs beside a daemon and pins its thread to a copy of commit 8. It reads the rows of
commit 8 until the end of its block; `newest` returns a row as of commit 12 meanwhile.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from threading import get_ident
from typing import Final, NamedTuple

import lmdb

from modelfs.errors import CorruptIndex
from modelfs.store.index.environment import Environment
from modelfs.store.index.index_file import IndexFile
from modelfs.store.index.memtable import UNCHANGED, ChangedRows, Layer, Unchanged, newest_value
from modelfs.store.index.opening import Database, Databases
from modelfs.store.index.records import Inode
from modelfs.store.index.row_checksum import checked, with_checksum
from modelfs.store.index.superblock import SUPERBLOCK, Superblock
from modelfs.store.index.tables import ROOT, Table, number_key

# Rows read in one transaction: LMDB reuses no page that a transaction may still read.
SCAN_PAGE: Final = 1000

# Two rows that every store has, and their lengths in formats 1 to 3, without checksums.
FIRST_ROWS: Final = (
    (Table.META, SUPERBLOCK, Superblock.LAYOUT.size),
    (Table.INODES, number_key(ROOT), Inode.LENGTH_3),
)

Row = tuple[bytes, bytes]
# Returns the new value of a row, from its table, key and value.
Convert = Callable[[Table, bytes, bytes], bytes]


def each_row(read: Callable[[bytes], list[Row]], start: bytes) -> Iterator[Row]:
    """Yield every row from a key on; `read` returns the next `SCAN_PAGE` of a key, or all."""
    while rows := read(start):
        yield from rows
        if len(rows) < SCAN_PAGE:
            return
        start = rows[-1][0] + b"\0"


class _Pin(NamedTuple):
    """The commit that a thread's reads see."""

    transaction: "lmdb.Transaction[bytes]"
    databases: Databases  # of a copy; otherwise empty, as those of the environment count


class CommittedRows:
    """The rows in LMDB. Any thread may read; one at a time writes."""

    def __init__(
        self, env: Environment, file: IndexFile, *, read_only: bool, others_write: bool
    ) -> None:
        """Read the rows of an environment.

        Args:
            env: of the index.
            file: of the environment.
            read_only: this process makes no commits.
            others_write: another process may make some.
        """
        self._env = env
        self._file = file
        self._read_only = read_only
        self.others_write = others_write
        self._pins: dict[int, _Pin] = {}  # by the thread whose reads use it
        # Whether the rows have checksums, as all do since format 4: False until the first look.
        self._with_checksums = False

    # -- reading

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return a row's value, None if there is no such row.

        Raises:
            CorruptIndex: the row does not match its checksum.
        """
        if not self._env.has(table):
            return None
        with self._snapshot() as snapshot:
            return self._value(snapshot, self._database, table, key)

    def newest(self, table: Table, key: bytes) -> bytes | None:
        """Return a row's value as of the last commit, even inside `pinned`. Raises as `get`."""
        if not self._env.has(table):
            return None
        with self._env.transaction() as snapshot:
            return self._value(snapshot, self._env.database, table, key)

    def stored(self, table: Table, key: bytes) -> bytes | None:
        """Return a row's value with its checksum, right or wrong."""
        if not self._env.has(table):
            return None
        with self._snapshot() as snapshot:
            return snapshot.get(key, db=self._database(table))

    def page(
        self,
        table: Table,
        start: bytes,
        stop: bytes,
        limit: int,
        hiding: tuple[ChangedRows, ...],
        damaged: set[bytes] | None,
    ) -> list[Row]:
        """Return the first `limit` rows whose keys are in `[start, stop)`.

        Args:
            table: of the rows.
            start: the lowest key.
            stop: above the highest key.
            limit: the most rows.
            hiding: layers of the memtable, the newest first. A row that they have comes with its
                newest value there; a deleted one is left out.
            damaged: gets the keys of rows that do not match their checksums.

        Raises:
            CorruptIndex: a row does not match its checksum, and there is no `damaged` for its key.
        """
        rows: list[Row] = []
        if not self._env.has(table):
            return rows
        with self._snapshot() as snapshot, snapshot.cursor(self._database(table)) as cursor:
            with_checksums = self._have_checksums(snapshot, self._database)
            for key, stored in cursor if cursor.set_range(start) else ():
                if key >= stop or len(rows) >= limit:
                    break
                changed = newest_value(hiding, key) if hiding else UNCHANGED
                if not isinstance(changed, Unchanged):
                    if changed is not None:
                        rows.append((key, changed))
                    continue
                try:
                    rows.append((key, checked(table, key, stored) if with_checksums else stored))
                except CorruptIndex:
                    if damaged is None:
                        raise
                    damaged.add(key)
        return rows

    def pages(
        self, table: Table, start: bytes, stop: bytes, *, damaged: set[bytes] | None = None
    ) -> Iterator[Row]:
        """Yield every row whose key is in `[start, stop)`. Raises as `page`."""
        return each_row(lambda key: self.page(table, key, stop, SCAN_PAGE, (), damaged), start)

    def floor_key(
        self, table: Table, key: bytes, low: bytes, hiding: tuple[ChangedRows, ...] = ()
    ) -> bytes | None:
        """Return the last key in `[low, key]`, None if there is none.

        Keys that are deleted in `hiding`, as for `page`, do not count.
        """
        if not self._env.has(table):
            return None
        with self._snapshot() as snapshot, snapshot.cursor(self._database(table)) as cursor:
            if cursor.set_range(key):
                exists = cursor.key() == key or cursor.prev()
            else:
                exists = cursor.last()
            while exists and (floor := cursor.key()) >= low:
                if newest_value(hiding, floor) is not None:
                    return floor
                exists = cursor.prev()
        return None

    def _value(
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

    # -- the commit that reads see

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
        with self.one_commit() if self._read_only else nullcontext():
            yield

    @contextmanager
    def one_commit(self) -> Iterator[None]:
        """Make this thread's reads of these rows see one commit, also of its own process."""
        if get_ident() in self._pins:
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
        copy = self._file.copy()
        try:
            with self._pinned_to(_Pin(copy.transaction, copy.databases)):
                yield
        finally:
            copy.close()

    @contextmanager
    def _pinned_to(self, pin: _Pin) -> Iterator[None]:
        thread = get_ident()
        self._pins[thread] = pin
        try:
            yield
        finally:
            if self._pins.get(thread) is pin:
                del self._pins[thread]

    def snapshot_id(self) -> int:
        """Return the number of the commit that reads see: the last one, or the pinned one."""
        pin = self._pins.get(get_ident())
        return self._env.snapshot_id() if pin is None else pin.transaction.id()

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

    def reopen(self, deadline: float = math.inf) -> None:
        """Close LMDB's environment; the next read opens it again, as it is on the disk by then.

        Waits for the reads of other threads, and ends those of this thread with an error.

        Raises:
            TimeoutError: a read lasts beyond the deadline, in monotonic seconds.
        """
        self._env.reopen(deadline)
        self._with_checksums = False  # it may be another file's

    # -- writing

    def write(self, changes: Layer, convert: Convert | None = None) -> None:
        """Apply changes in one transaction, and make them durable.

        Args:
            changes: the rows to put and to delete, of every table.
            convert: no row has a checksum. Each one gets one, and the value that this returns for
                it. No other thread may read meanwhile.

        Raises: as `IndexFile.write`.
        """

        def work(transaction: "lmdb.Transaction[bytes]") -> None:
            with_checksums = self._have_checksums(transaction, self._env.database)
            if convert is not None:
                for table in changes:
                    self._convert(transaction, table, convert)
                with_checksums = True
            for table, rows in changes.items():
                database = self._env.database(table)
                for key in rows.deleted:
                    transaction.delete(key, db=database)
                for key in rows.live:
                    value = rows[key]
                    assert value is not None, "a live key has a value"
                    stored = with_checksum(table, key, value) if with_checksums else value
                    transaction.put(key, stored, db=database)

        self._file.write(work)

    def have_checksums(self) -> bool:
        """Whether the rows have checksums: those of formats 1 to 3 have none."""
        with self._env.transaction() as snapshot:
            return self._have_checksums(snapshot, self._env.database)

    def _convert(
        self, transaction: "lmdb.Transaction[bytes]", table: Table, convert: Convert
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
