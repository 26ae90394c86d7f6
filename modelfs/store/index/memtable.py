"""The memtable: changes of the index that LMDB does not have yet, sorted in memory.

Theory of operation. There are two layers. The *active* layer receives changes. The *sealed* layer,
if there is one, is being written to LMDB. A row in the active layer hides the same row in the
sealed one, and both hide LMDB's row. A deletion is a row without a value.

Example. LMDB has the row a=1. A change puts a=2 and is sealed: active {}, sealed {a: 2}. While a
thread writes that commit, another change deletes a: active {a: None}. A reader of a now finds no
row. The write ends and the sealed layer is released: LMDB has a=2, and the active layer hides it.
A row b that is put and deleted between two seals leaves nothing in either layer.

One thread makes all changes; any thread may read. The lock keeps a reader from seeing a sorted
layer in the middle of an insertion.

The size and the age of the changes are counted as rows come and go, so that requests can wait while
there are too many: see `fs.background.gate`.
"""

import heapq
from time import monotonic
from typing import Final

from sortedcontainers import SortedDict

from modelfs.fork_lock import fork_lock
from modelfs.store.index.tables import Table

# Memory of a row besides its key and value, about.
ROW_BYTES: Final = 200
# Changed rows of one look: a page of a listing must not walk over all names that were removed.
CHANGES_PAGE: Final = 1000

Layer = dict[Table, "SortedDict[bytes, bytes | None]"]
Undo = tuple[Table, bytes, bytes | None, bool]  # the row that was there, and whether there was one


class Unchanged:
    """The type of `UNCHANGED`, the result for a row that neither layer has."""


UNCHANGED: Final = Unchanged()


def _empty() -> Layer:
    return {table: SortedDict() for table in Table}


class Memtable:
    """The active and the sealed layer."""

    def __init__(self) -> None:
        self._lock = fork_lock()
        self._active = _empty()
        self._sealed: Layer | None = None
        # More than 0 exactly while the layer has a row.
        self._active_bytes = 0
        self._sealed_bytes = 0
        # Monotonic seconds of the oldest change of each layer.
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

    def changes(
        self, table: Table, start: bytes, stop: bytes, limit: int
    ) -> tuple[dict[bytes, bytes | None], bytes]:
        """Return changed rows in `[start, stop)`, in order.

        Returns:
            Values by key, None for a deletion: `CHANGES_PAGE` rows, or fewer up to the `limit`-th
            that has a value. And the key before which these are all changed rows.
        """
        changed: dict[bytes, bytes | None] = {}
        live = 0
        with self._lock:
            layers = [layer[table] for layer in self._layers()]
            keys = (layer.irange(start, stop, inclusive=(True, False)) for layer in layers)
            for key in heapq.merge(*keys):
                if key not in changed:
                    changed[key] = next(layer[key] for layer in layers if key in layer)
                    live += changed[key] is not None
                if live == limit or len(changed) == CHANGES_PAGE:
                    return changed, key + b"\0"
        return changed, stop

    def floor_keys(self, table: Table, key: bytes, low: bytes) -> list[bytes]:
        """Return the last key in `[low, key]` of each layer that has one, deletions included."""
        with self._lock:
            floors = [
                next(layer[table].irange(low, key, reverse=True), None) for layer in self._layers()
            ]
        return [floor for floor in floors if floor is not None]

    def _layers(self) -> tuple[Layer, ...]:
        return (self._active,) if self._sealed is None else (self._active, self._sealed)

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
        """Seconds since the oldest change that LMDB does not have; 0 without one."""
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
            rows[key] = value
        self._active_bytes += _memory(key, value)
        if was_there:
            self._active_bytes -= _memory(key, older)

    def drop(self, table: Table, key: bytes) -> None:
        """Remove a row from the active layer, if it is there: neither LMDB nor a commit has it."""
        rows = self._active[table]
        if key in rows:
            with self._lock:
                value = rows.pop(key)
            self._active_bytes -= _memory(key, value)

    def undo(self, changes: list[Undo]) -> None:
        """Undo changes, the last one first. None of them may have been sealed.

        The last one may not have been made.
        """
        with self._lock:
            for table, key, value, was_there in reversed(changes):
                rows = self._active[table]
                if key in rows:
                    self._active_bytes -= _memory(key, rows.pop(key))
                if was_there:
                    rows[key] = value
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
                    self._sealed[table].update(rows)
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
