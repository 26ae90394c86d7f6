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

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from modelfs.errors import StoreReadOnly
from modelfs.store.disk.directory import Directory
from modelfs.store.index.committed import SCAN_PAGE, CommittedRows, Convert, Row, each_row
from modelfs.store.index.environment import MAP_SIZE, Environment
from modelfs.store.index.index_file import IndexFile
from modelfs.store.index.memtable import Layer, Memtable, Unchanged, Undo
from modelfs.store.index.tables import Table

# Above every key: LMDB's longest is 511 bytes.
KEY_END: Final = b"\xff" * 512


class CommitBatch:
    """The sealed changes of one commit."""

    def __init__(self, rows: CommittedRows, changes: Layer) -> None:
        self._rows = rows
        self._changes = changes

    def write(self, convert: Convert | None = None) -> None:
        """Apply the changes to LMDB and make them durable. Any thread, one at a time.

        Args:
            convert: the conversion of the rows of an older format: see `CommittedRows.write`.

        Raises:
            StoreFull: the disk or the map is full. Nothing was written; the changes stay sealed
                and visible, and the next batch includes them.
            OSError, CorruptIndex: as `Environment.transaction`; the same holds.
        """
        self._rows.write(self._changes, convert)


class Index:
    """Sorted tables of bytes to bytes, changed in atomic groups.

    Three parts are public: `rows`, those of the last commit; `environment`, for forks and slots;
    and `file`, for its length and its durability.
    """

    def __init__(
        self,
        directory: Directory,
        *,
        read_only: bool = False,
        exclude_writers: bool = False,
        map_size: int = MAP_SIZE,
    ) -> None:
        """Open the index of a store.

        Args:
            directory: of the LMDB environment.
            read_only: refuse changes.
            exclude_writers: with `read_only`, the caller keeps other processes from writing the
                index, so `version` needs no look at the last commit, and reads need no slots.
            map_size: address space for LMDB's map, in bytes. It grows when it is full.

        Raises:
            CorruptIndex: the index is damaged; `IndexLost` if nothing of it can be read.
            OSError: the disk failed.
        """
        self._read_only = read_only
        self._memtable = Memtable()
        self._undo: list[Undo] | None = None  # of the change in progress
        self._torn = False  # whether a change was interrupted
        self._versions = dict.fromkeys(Table, 0)
        self.directory = directory
        self.environment = Environment(
            directory, read_only=read_only, map_size=map_size, needs_slots=not exclude_writers
        )
        self.file = IndexFile(directory, self.environment)
        self.rows = CommittedRows(
            self.environment,
            self.file,
            read_only=read_only,
            others_write=read_only and not exclude_writers,
        )

    def close(self) -> None:
        self.environment.close()

    # -- reading

    def get(self, table: Table, key: bytes) -> bytes | None:
        """Return a row's value, None if there is no such row.

        Raises:
            CorruptIndex: the row does not match its checksum.
        """
        value = self._memtable.get(table, key)
        return self.rows.get(table, key) if isinstance(value, Unchanged) else value

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
        live, end, layers = self._memtable.live(table, start, stop, limit)
        page = self.rows.page(table, start, end, limit, layers, damaged)
        return sorted({**live, **dict(page)}.items())[:limit] if live else page

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
        return each_row(lambda key: self.scan(table, key, stop, damaged=damaged), start)

    def has(self, table: Table, key: bytes) -> bool:
        """Whether there is a row. It may not match its checksum."""
        value = self._memtable.get(table, key)
        if isinstance(value, Unchanged):
            value = self.rows.stored(table, key)
        return value is not None

    def keys(self, table: Table, start: bytes = b"", stop: bytes = KEY_END) -> Iterator[bytes]:
        """Yield the keys in `[start, stop)` in order, except those of damaged rows."""
        return (key for key, _ in self.pages(table, start, stop, damaged=set()))

    def floor(self, table: Table, key: bytes, low: bytes) -> Row | None:
        """Return the last row whose key is in `[low, key]`, None if there is none.

        Raises:
            CorruptIndex: the row does not match its checksum.
        """
        while (floor := self.floor_key(table, key, low)) is not None:
            if (value := self.get(table, floor)) is not None:  # else it was deleted since
                return floor, value
        return None

    def floor_key(self, table: Table, key: bytes, low: bytes) -> bytes | None:
        """Return the last key in `[low, key]`, None if there is none."""
        live, layers = self._memtable.live_floor(table, key, low)
        return self.rows.floor_key(table, key, live or low, layers) or live

    def version(self, table: Table) -> int:
        """Return a number that changes whenever the table may have changed.

        While it stays, rows that were read before are current. If another process may write the
        index, it changes with every commit.
        """
        return self.rows.snapshot_id() if self.rows.others_write else self._versions[table]

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
            committed = self.rows.stored(table, key)
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
        # No `Exception`: that would be the failure of one request or one file, and the next ones
        # would go on. The interruption ends its process, also if a handler has dropped it.
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
        """At least the age of the oldest change that no commit has made durable; 0 without one.

        It is more if older changes were undone since the last commit.
        """
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
        return CommitBatch(self.rows, self._memtable.seal())

    def release(self) -> None:
        """End a commit whose batch was written."""
        self._memtable.release()

    def commit(self, convert: Convert | None = None) -> None:
        """Do all three steps of a commit on this thread. As `CommitBatch.write`."""
        if self.dirty:
            self.seal().write(convert)
            self.release()
