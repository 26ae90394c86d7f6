"""Complete maps: a hole is read as zeros only if its file has all of its extents.

Theory of operation. A row of `extents` that the disk has lost leaves a hole in the map. So before a
hole is read as zeros, the extents of the file are added up. If they have fewer bytes than the
inode's record, a row is missing, and the read fails: each hole may be the place. Extents are not
added up for a file without holes, nor for one without extents.

The sums are those of one commit, in one transaction, without the changes in memory: only rows on
the disk can be lost, and each change of a map changes both sums alike. So any thread can add them
up beside the owner, and the owner's changes leave the result right. It counts for as long as a
verified chunk does, since pages of the index come from the disk again, too. Beside a writer it
counts for one commit.

Example. A file has 3 MiB of extents by its record, and a size of 1 GiB. The row at 1 MiB is gone.
The extents add up to 2 MiB, so a read at 1 MiB fails, and so does one at 500 MiB.

Adding up takes some 2 us for each extent (`tools/bench/index.py`), so 0.2 s of a thread for a
sparse file of 10^5 extents, once a minute while its holes are read.
"""

from modelfs.errors import CorruptIndex
from modelfs.store.chunks.verified import Verified
from modelfs.store.index.committed import CommittedRows
from modelfs.store.index.index import Index
from modelfs.store.index.records import Extent, Inode
from modelfs.store.index.tables import InodeNumber, Table, number_key, pair_key


class CompleteMaps:
    """The files whose maps have all of their extents. Any thread."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self._complete: Verified[tuple[InodeNumber, int]] = Verified()  # and the commit

    def clear(self) -> None:
        """Drop all results."""
        self._complete.clear()

    @property
    def may_change(self) -> bool:
        """Whether another process may change maps, so that a check counts for its commit only."""
        return self._index.rows.others_write

    def trusts(self, inode: InodeNumber) -> bool:
        """Whether a file's map was found complete within the last minute, or should be empty.

        Raises:
            CorruptIndex: the file's record is damaged.
        """
        if self._key(inode) in self._complete:
            return True
        return not _mapped(inode, self._index.get(Table.INODES, number_key(inode)))

    def check(self, inode: InodeNumber) -> None:
        """Check that a file has all of its extents. Takes time in proportion to their number.

        Raises:
            CorruptIndex: it has not, or its record is damaged.
        """
        if self.trusts(inode):
            return
        with self._index.rows.one_commit():
            key = self._key(inode)
            if missing := _missing_bytes(self._index.rows, inode):
                raise CorruptIndex(f"extents of inode {inode} are missing: {missing} bytes")
        self._complete.add(key)

    def _key(self, inode: InodeNumber) -> tuple[InodeNumber, int]:
        return inode, self._index.rows.snapshot_id() if self.may_change else 0


def _missing_bytes(rows: CommittedRows, inode: InodeNumber) -> int:
    """Return how many bytes the extents of a file have less than its record, 0 if not fewer."""
    mapped = _mapped(inode, rows.get(Table.INODES, number_key(inode)))
    # An extent whose row is damaged counts as missing.
    extents = rows.pages(Table.EXTENTS, pair_key(inode, 0), pair_key(inode + 1, 0), damaged=set())
    found = sum(Extent.from_bytes(0, row).length for _, row in extents)
    return max(0, mapped - found)


def _mapped(inode: InodeNumber, value: bytes | None) -> int:
    """Return the bytes of extents that a record has: in formats 1 to 3, and without a record, 0."""
    return 0 if value is None else Inode.from_bytes(inode, value).mapped
