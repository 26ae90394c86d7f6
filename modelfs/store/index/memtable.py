"""The memtable: changes of the index that LMDB does not have yet, sorted in memory.

Theory of operation. There are two layers. The *active* layer receives changes. The *sealed* layer,
if there is one, is being written to LMDB. A row in the active layer hides the same row in the
sealed one, and both hide LMDB's row. A deletion is a row without a value. Its key is kept apart: a
search by order, such as a page of a listing, walks over rows with values only, and looks into the
layers by hash for each row that it finds in LMDB.

Example. LMDB has the row a=1. A change puts a=2 and is sealed: active {}, sealed {a: 2}. While a
thread writes that commit, another change deletes a: active {a: None}. A reader of a now finds no
row. The write ends and the sealed layer is released: LMDB has a=2, and the active layer hides it.
A row b that is put and deleted between two seals leaves nothing in either layer.

One thread makes all changes; any thread may read. The lock keeps a reader from seeing sorted keys
in the middle of an insertion.

The size of the changes is counted as rows come and go, and their age from the first change of a
layer on, so that the store's owner can wait while there are too many.
"""

import heapq
from time import monotonic
from typing import Final

from sortedcontainers import SortedList

from modelfs.fork_lock import fork_lock
from modelfs.store.index.tables import Table

# Memory of a row besides its key and value, about.
ROW_BYTES: Final = 200

Undo = tuple[Table, bytes, bytes | None, bool]  # the row that was there, and whether there was one


class Unchanged:
    """The type of `UNCHANGED`, the result for a row that neither layer has."""


UNCHANGED: Final = Unchanged()


class ChangedRows(dict[bytes, bytes | None]):
    """The rows of a table that a layer has: values by key, None for a deletion.

    Only `change` and `drop` change it: they keep the keys of values and of deletions sorted. One
    thread does it; any thread may look a row up meanwhile, as in any `dict`.
    """

    __slots__ = ("deleted", "live")

    def __init__(self) -> None:
        super().__init__()
        self.live: SortedList[bytes] = SortedList()  # keys of rows with a value
        self.deleted: SortedList[bytes] = SortedList()  # keys of deletions

    def change(self, key: bytes, value: bytes | None) -> None:
        """Put a row, or a deletion with None."""
        keys = self.deleted if value is None else self.live
        if key not in self:
            keys.add(key)
        elif (self[key] is None) != (value is None):
            (self.live if value is None else self.deleted).discard(key)
            keys.add(key)
        self[key] = value

    def drop(self, key: bytes) -> bytes | None:
        """Remove the row, or the deletion, that there is of a key, and return its value."""
        value = self.pop(key)
        (self.deleted if value is None else self.live).discard(key)
        return value


def newest_value(layers: tuple[ChangedRows, ...], key: bytes) -> bytes | Unchanged | None:
    """Return the value of a row in the first layer that has it, None for a deletion."""
    for rows in layers:
        if not isinstance(value := rows.get(key, UNCHANGED), Unchanged):
            return value
    return UNCHANGED


Layer = dict[Table, ChangedRows]


def _empty() -> Layer:
    return {table: ChangedRows() for table in Table}


class Memtable:
    """The active and the sealed layer."""

    def __init__(self) -> None:
        self._lock = fork_lock()
        self._active = _empty()
        self._sealed: Layer | None = None
        # More than 0 exactly while the layer has a row.
        self._active_bytes = 0
        self._sealed_bytes = 0
        # Monotonic seconds of the change before which a layer had no row. That row may be gone.
        self._active_since = 0.0
        self._sealed_since = 0.0

    # -- reading

    def get(self, table: Table, key: bytes) -> bytes | Unchanged | None:
        """Return a row's value, None if it was deleted, `UNCHANGED` if only LMDB may have it."""
        with self._lock:
            rows = self._active[table]
            if key in rows:
                return rows[key]
            if self._sealed is not None:
                rows = self._sealed[table]
                if key in rows:
                    return rows[key]
        return UNCHANGED

    def sealed(self, table: Table, key: bytes) -> bytes | Unchanged | None:
        """Return a row's value in the sealed layer, None if it was deleted, or `UNCHANGED`."""
        with self._lock:
            if self._sealed is not None:
                rows = self._sealed[table]
                if key in rows:
                    return rows[key]
        return UNCHANGED

    def live(
        self, table: Table, start: bytes, stop: bytes, limit: int
    ) -> tuple[dict[bytes, bytes], bytes, tuple[ChangedRows, ...]]:
        """Return the first `limit` changed rows in `[start, stop)` that have a value, in order.

        Returns:
            Values by key. The key before which these are all. And the layers that have rows, the
            active one first: they hide rows of LMDB that are read after this call.
        """
        rows: dict[bytes, bytes] = {}
        with self._lock:
            layers = self._layers_of(table)
            keys = (layer.live.irange(start, stop, inclusive=(True, False)) for layer in layers)
            for key in heapq.merge(*keys):
                if isinstance(value := newest_value(layers, key), bytes):
                    rows[key] = value
                if len(rows) == limit:
                    return rows, key + b"\0", layers
        return rows, stop, layers

    def live_floor(
        self, table: Table, key: bytes, low: bytes
    ) -> tuple[bytes | None, tuple[ChangedRows, ...]]:
        """Return the last key in `[low, key]` of a changed row with a value.

        And the layers that have rows, as `live`.
        """
        floor = None
        with self._lock:
            layers = self._layers_of(table)
            for layer in layers:
                for last in layer.live.irange(floor or low, key, reverse=True):
                    if isinstance(newest_value(layers, last), bytes):
                        floor = last
                        break
        return floor, layers

    def _layers_of(self, table: Table) -> tuple[ChangedRows, ...]:
        layers = (self._active,) if self._sealed is None else (self._active, self._sealed)
        return tuple(rows for layer in layers if (rows := layer[table]))

    @property
    def dirty(self) -> bool:
        """Whether there are changes that LMDB does not have."""
        return self._active_bytes > 0 or self._sealed is not None

    @property
    def memory(self) -> int:
        """Memory of the changes that LMDB does not have, about."""
        return self._active_bytes + self._sealed_bytes

    @property
    def age(self) -> float:
        """At least the seconds since the oldest change that LMDB does not have; 0 without one."""
        if self._sealed is not None:
            return monotonic() - self._sealed_since
        return monotonic() - self._active_since if self._active_bytes else 0.0

    def __len__(self) -> int:
        """Return the number of rows that have changed since the last seal."""
        return sum(map(len, self._active.values()))

    # -- changing

    def undo_of(self, table: Table, key: bytes) -> Undo:
        """Return the record with which `undo` restores a row to its present state."""
        rows = self._active[table]
        return table, key, rows.get(key), key in rows

    def set(self, table: Table, key: bytes, value: bytes | None) -> None:
        """Change a row, or delete it with None."""
        rows = self._active[table]
        older, was_there = rows.get(key), key in rows
        if not self._active_bytes:
            self._active_since = monotonic()
        with self._lock:
            rows.change(key, value)
        self._active_bytes += _memory(key, value)
        if was_there:
            self._active_bytes -= _memory(key, older)

    def drop(self, table: Table, key: bytes) -> None:
        """Remove a row from the active layer, which has it; neither LMDB nor a commit does."""
        with self._lock:
            value = self._active[table].drop(key)
        self._active_bytes -= _memory(key, value)

    def undo(self, changes: list[Undo]) -> None:
        """Undo changes, the last one first. None of them may have been sealed.

        The last one may not have been made.
        """
        with self._lock:
            for table, key, value, was_there in reversed(changes):
                rows = self._active[table]
                if key in rows:
                    self._active_bytes -= _memory(key, rows.drop(key))
                if was_there:
                    rows.change(key, value)
                    self._active_bytes += _memory(key, value)

    # -- committing

    def seal(self) -> Layer:
        """Seal the active layer, and return the sealed one.

        If the sealed layer before it was not released, because its commit failed, the new one
        includes its changes.
        """
        with self._lock:
            if self._sealed is None:
                self._sealed_since = self._active_since
            self._sealed_bytes += self._active_bytes  # too many, if both layers have a row
            self._active_bytes = 0
            if self._sealed is not None:
                for table, rows in self._active.items():
                    for key, value in rows.items():
                        self._sealed[table].change(key, value)
            else:
                self._sealed = self._active
            self._active = _empty()
        return self._sealed

    def release(self) -> None:
        """Drop the sealed layer, because LMDB has it."""
        with self._lock:
            self._sealed = None
            self._sealed_bytes = 0


def _memory(key: bytes, value: bytes | None) -> int:
    return ROW_BYTES + len(key) + len(value or b"")
