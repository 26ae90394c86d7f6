"""The inode table: inode records, and the totals that depend on them."""

import dataclasses
import stat

from modelfs.errors import NotFound
from modelfs.store.files.clock import now_ns
from modelfs.store.files.inode_totals import Totals
from modelfs.store.index.counters import FILES, LOGICAL, NEXT_INODE, Counters
from modelfs.store.index.index import Index
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import InodeNumber, Table, number_key


class Inodes:
    """The inode records of the index. Any thread may read; only the owner changes."""

    def __init__(self, index: Index, counters: Counters) -> None:
        self._index = index
        self._counters = counters

    def get(self, inode: InodeNumber) -> Inode:
        """Return an inode's record.

        Raises:
            NotFound: there is no such inode.
            CorruptIndex: the record is damaged.
        """
        if (node := self.find(inode)) is None:
            raise NotFound(f"inode {inode} does not exist")
        return node

    def find(self, inode: InodeNumber) -> Inode | None:
        """Return an inode's record, None if there is none.

        Raises:
            CorruptIndex: the record is damaged.
        """
        value = self._index.get(Table.INODES, number_key(inode))
        return None if value is None else Inode.from_bytes(inode, value)

    def new_number(self) -> InodeNumber:
        """Allocate an inode number. No number is used twice."""
        return InodeNumber(self._counters.allocate(NEXT_INODE))

    def put(self, node: Inode) -> None:
        """Put a record in the place of the old one, if there is one, but keep that one's totals."""
        if (old := self.find(node.inode)) is not None:
            node = Totals.of(old).put_into(node)
        self._count(old, -1)
        self._count(node, 1)
        self._index.put(Table.INODES, number_key(node.inode), node.to_bytes())

    def touch(self, node: Inode, **changes: int) -> Inode:
        """Put a record with changed fields and the present time as ctime, and return it."""
        changed = dataclasses.replace(node, ctime_ns=now_ns(node.ctime_ns), **changes)  # type: ignore[arg-type]
        self.put(changed)
        return changed

    def delete(self, inode: InodeNumber) -> None:
        self._count(self.find(inode), -1)
        self._index.delete(Table.INODES, number_key(inode))

    def _count(self, node: Inode | None, sign: int) -> None:
        # Add a record to the totals (1), or subtract it (-1).
        if node is not None and stat.S_ISREG(node.mode):
            self._counters.add(FILES, sign)
            self._counters.add(LOGICAL, sign * node.size)
