"""Inode records: reading and writing them, and the sums that depend on them."""

import dataclasses
import stat
import time

from modelfs.errors import NotFound
from modelfs.store.index.counters import FILES, LOGICAL, NEXT_INODE, Counters
from modelfs.store.index.index import Index
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import InodeNumber, Table, number_key


class Inodes:
    """The inode table."""

    def __init__(self, index: Index, counters: Counters) -> None:
        self._index = index
        self._counters = counters

    def get(self, inode: InodeNumber) -> Inode:
        """Return an inode's record.

        Raises:
            NotFound: there is no such inode.
        """
        if (found := self.find(inode)) is None:
            raise NotFound(f"inode {inode}")
        return found

    def find(self, inode: InodeNumber) -> Inode | None:
        value = self._index.get(Table.INODES, number_key(inode))
        return None if value is None else Inode.from_bytes(inode, value)

    def new_number(self) -> InodeNumber:
        return InodeNumber(self._counters.allocate(NEXT_INODE))

    def put(self, node: Inode) -> None:
        self._count(self.find(node.inode), -1)
        self._count(node, 1)
        self._index.put(Table.INODES, number_key(node.inode), node.to_bytes())

    def touch(self, node: Inode, **changes: int) -> Inode:
        """Change fields of a record and set its ctime."""
        changed = dataclasses.replace(node, ctime_ns=time.time_ns(), **changes)  # type: ignore[arg-type]
        self.put(changed)
        return changed

    def delete(self, inode: InodeNumber) -> None:
        self._count(self.find(inode), -1)
        self._index.delete(Table.INODES, number_key(inode))

    def _count(self, node: Inode | None, sign: int) -> None:
        if node is not None and stat.S_ISREG(node.mode):
            self._counters.add(FILES, sign)
            self._counters.add(LOGICAL, sign * node.size)
