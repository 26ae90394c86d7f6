"""The inodes that the kernel has looked up, and the removal of those without a name.

The kernel counts its lookups of an inode, and takes them back with *forget*. It looks an inode up
before it opens it and forgets it after the last close, so an inode with a lookup may still be used
even if it has no name any more. An inode without names and lookups is an orphan: gc removes it.

Example. `rm model` while a program reads the file: unlink takes the last name, and the inode stays
because of its lookups. The program ends, the kernel forgets the inode, and gc removes its content.
"""

from collections.abc import Callable

from pyfuse3 import EntryAttributes

from modelfs.fs.requests.attributes import attributes_of
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store


class Lookups:
    """Lookup counts by inode."""

    def __init__(self, store: Store, add_orphan: Callable[[InodeNumber], None]) -> None:
        self._store = store
        self._add_orphan = add_orphan
        self._counts: dict[InodeNumber, int] = {}
        self._nameless: set[InodeNumber] = set()  # no name, but lookups

    def entry(self, inode: InodeNumber) -> EntryAttributes:
        """Return the attributes of an inode for a reply that the kernel counts as a lookup."""
        entry = attributes_of(self._store.contents, inode)
        self.add(inode)
        return entry

    def count(self, inode: InodeNumber) -> int:
        """Return how many lookups of an inode the kernel has not taken back."""
        return self._counts.get(inode, 0)

    def add(self, inode: InodeNumber) -> None:
        """Count a lookup."""
        self._counts[inode] = self.count(inode) + 1

    def forget(self, inode: InodeNumber, count: int) -> None:
        """Take back lookups; the last one makes an inode without a name an orphan."""
        # The kernel forgets thousands at once, so the index is not read for each.
        left = self.count(inode) - count
        if left > 0:
            self._counts[inode] = left
            return
        self._counts.pop(inode, None)
        if inode in self._nameless:
            self._nameless.discard(inode)
            self._add_orphan(inode)

    def lost_name(self, inode: InodeNumber) -> None:
        """Note that a name of an inode was removed."""
        node = self._store.inodes.find(inode)
        if node is None or node.nlink:
            return
        if inode in self._counts:
            self._nameless.add(inode)
        else:
            self._add_orphan(inode)
