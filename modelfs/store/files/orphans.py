"""Removing what nobody can reach any more: the inodes without a name that nobody has open."""

from collections.abc import Iterator
from typing import Final

from modelfs.store.files.filemap import FileMaps
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.staging import Staging
from modelfs.store.index.index import Index
from modelfs.store.index.tables import InodeNumber, Table, number_key, number_of, prefix_end

# Rows removed in one go, so that no request waits long for a large file's end.
SLICE: Final = 100
OF_ONE_ROW: Final = (
    Table.SYMLINKS,
    Table.TRIMS,
    Table.PENDING,
    Table.ORPHANS,
    Table.TO_OPTIMIZE,
)


class Orphans:
    """Removes orphans a slice at a time."""

    def __init__(self, index: Index, inodes: Inodes, maps: FileMaps, staging: Staging) -> None:
        self._index = index
        self._inodes = inodes
        self._maps = maps
        self._staging = staging
        self._removed = Table.META, b""  # the last row of a slice, while more are to come

    def inodes(self) -> list[InodeNumber]:
        """Return the inodes without a name, open or not."""
        return [InodeNumber(number_of(key)) for key, _ in self._index.pages(Table.ORPHANS)]

    def remove(self, inode: InodeNumber) -> Iterator[None]:
        """Remove an orphan that nobody has open; yields after each slice but the last."""
        while not self._remove_slice(inode):
            yield

    def _remove_slice(self, inode: InodeNumber) -> bool:
        if self._index.get(Table.ORPHANS, number_key(inode)) is None:
            return True  # it has a name after all
        with self._index.change():
            gone = self._maps.trim(inode, 0, SLICE) and self._remove_rows(inode)
            if gone:
                self._inodes.delete(inode)
                for table in OF_ONE_ROW:
                    self._index.delete(table, number_key(inode))
            self._drop_staged(inode)
        return gone

    def _remove_rows(self, inode: InodeNumber) -> bool:
        prefix = number_key(inode)
        for table in (Table.XATTRS, Table.TENSORS):
            rows = self._index.scan(table, self._start(table, prefix), prefix_end(prefix), SLICE)
            for key, _ in rows:
                self._index.delete(table, key)
            if len(rows) == SLICE:
                self._removed = table, rows[-1][0]
                return False
        return True

    def _start(self, table: Table, prefix: bytes) -> bytes:
        # Behind the slice before: see `FileMaps.trim`.
        last_table, last = self._removed
        if last_table is not table or not last.startswith(prefix):
            return prefix
        return prefix if self._index.get(table, last) is not None else last + b"\0"

    def _drop_staged(self, inode: InodeNumber) -> None:
        if (staged := self._staging.find(inode)) is not None:
            self._staging.drop(staged, [*staged.windows.values(), *staged.superseded])
            staged.superseded = []
            self._staging.release(inode)
