"""Orphans: inodes without a name, which are removed once no program has them open.

Example. A program has inode 5 open, and its last name is removed: 5 is an orphan, and reads of it
go on. When the program closes it, `remove` deletes its 250 extents in slices of 100, 100 and 50.
The first slice also drops its staged windows, and the last one its attributes, tensors and other
rows. After a crash in between, the next mount finds orphan 5 with the rest of its extents and goes
on.
"""

from collections.abc import Iterator
from typing import Final

from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.inode_totals import add_to_totals
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.staging import Staging
from modelfs.store.index.index import Index
from modelfs.store.index.tables import InodeNumber, Table, number_key, number_of, prefix_end

# Rows of one table removed in one slice, so that no request waits long for a large file.
SLICE: Final = 100
# Tables with at most one row for an inode.
ONE_ROW_TABLES: Final = (
    Table.SYMLINKS,
    Table.TRIMS,
    Table.PENDING,
    Table.ORPHANS,
    Table.TO_OPTIMIZE,
)


class Orphans:
    """Removes orphans, a slice at a time."""

    def __init__(self, index: Index, inodes: Inodes, maps: FileMaps, staging: Staging) -> None:
        self._index = index
        self._inodes = inodes
        self._maps = maps
        self._staging = staging
        self._last = Table.META, b""  # the last row of an unfinished slice

    def inodes(self) -> list[InodeNumber]:
        """Return all inodes without a name, open or not."""
        return [InodeNumber(number_of(key)) for key in self._index.keys(Table.ORPHANS)]

    def remove(self, inode: InodeNumber) -> Iterator[None]:
        """Remove an orphan that no program has open; yields after each slice but the last."""
        while self._index.get(Table.ORPHANS, number_key(inode)) is not None:
            with self._index.change():
                gone = self._maps.trim(inode, 0, SLICE) and self._remove_rows(inode)
                if gone:
                    self._staging.rows.delete_all(inode)
                    self._inodes.delete(inode)
                    for table in ONE_ROW_TABLES:
                        self._index.delete(table, number_key(inode))
                staged = self._staging.find(inode)
                if staged is not None:
                    self._staging.drop_superseded(staged, staged.superseded)
                    self._staging.drop(staged, list(staged.windows.values()))
                self._staging.wholes.remove(inode, staged)
                if staged is not None:
                    self._staging.release(inode)
            if gone:
                return
            yield

    def _remove_rows(self, inode: InodeNumber) -> bool:
        """Remove a slice of the attributes or tensors; return whether none is left."""
        prefix = number_key(inode)
        last_table, last_key = self._last
        for table, total in ((Table.XATTRS, "xattr_rows"), (Table.TENSORS, "tensor_rows")):
            start = prefix
            if last_table is table and last_key.startswith(prefix):
                # Go on at the end of the last slice, if its change was not undone: see
                # `FileMaps.trim`.
                is_undone = self._index.get(table, last_key) is not None
                start = prefix if is_undone else last_key + b"\0"
            rows = self._index.scan(table, start, prefix_end(prefix), SLICE)
            for key, _ in rows:
                self._index.delete(table, key)
            add_to_totals(self._index, inode, **{total: -len(rows)})
            if len(rows) == SLICE:
                self._last = table, rows[-1][0]
                return False
        return True
