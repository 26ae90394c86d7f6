"""The totals in inode records: the number and the sums of other rows.

An inode's record has the bytes of the file's extents, and the numbers of its extended attributes,
of its tensors, and of its rows in `staged`, `lost` and `trims`, with the checksums of staged bytes
in `meta`. A change of these rows changes the totals in the same change of the index. A row may
vanish, because its key is damaged or the disk has an old page of the index. Then fsck names the
file. Reads of it fail, of staged content (see `staging`) or of holes (see `complete_maps`), and so
do those of attributes that it lacks.

Other tables with rows of an inode need no total. A name has rows in three tables, a symlink without
a target is none, and an orphan has no name. Hints and queues may lack rows: no byte depends on it.

Example. The file of inode 5 has 3 MiB in 3 extents, and its record has a total of 3 MiB. The row of
the second extent is gone. A read there finds a hole, and the other two extents add up to 2 MiB:
`CorruptIndex`.

Records of formats 1 to 3 have zeros in place of the totals, and an upgrade counts them.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from modelfs.errors import CorruptIndex
from modelfs.store.index.counters import windows_of_checksums
from modelfs.store.index.index import Index
from modelfs.store.index.records import Extent, Inode
from modelfs.store.index.tables import InodeNumber, Table, number_key, number_of, pair_of

# The first format whose inode records have totals.
TOTALS_SINCE: Final = 4
STAGING_TABLES: Final = (Table.STAGED, Table.LOST, Table.TRIMS)


class Totals(NamedTuple):
    """The totals of one inode."""

    staging_rows: int = 0
    mapped: int = 0  # bytes
    xattr_rows: int = 0
    tensor_rows: int = 0

    @classmethod
    def of(cls, node: Inode) -> "Totals":
        """Return the totals that a record has."""
        return cls(node.staging_rows, node.mapped, node.xattr_rows, node.tensor_rows)

    def put_into(self, node: Inode) -> Inode:
        """Return a record with these totals."""
        if Totals.of(node) == self:
            return node
        return dataclasses.replace(node, **self._asdict())


def add_to_totals(index: Index, inode: InodeNumber, **differences: int) -> None:
    """Add to the totals in an inode's record, if it has one, inside a change of the index.

    Args:
        index: of the store.
        inode: whose rows have changed.
        differences: by the names of fields of `Totals`.

    Raises:
        CorruptIndex: the record is damaged, or a total would be negative.
    """
    key = number_key(inode)
    if any(differences.values()) and (value := index.get(Table.INODES, key)) is not None:
        node = Inode.from_bytes(inode, value)
        totals = Totals(*map(sum, zip(Totals.of(node), Totals(**differences), strict=True)))
        if min(totals) < 0:
            raise CorruptIndex(f"inode {inode} has negative totals: {totals}")
        index.put(Table.INODES, key, totals.put_into(node).to_bytes())


def clear_mapped(index: Index, inode: InodeNumber) -> None:
    """Set a file's bytes of extents to zero, as it has none, inside a change of the index.

    Raises:
        CorruptIndex: the record is damaged.
    """
    key = number_key(inode)
    if (value := index.get(Table.INODES, key)) is not None:
        node = Inode.from_bytes(inode, value)
        if node.mapped:
            index.put(Table.INODES, key, dataclasses.replace(node, mapped=0).to_bytes())


def count_totals(
    pages: Callable[[Table], Iterator[tuple[bytes, bytes]]],
) -> dict[int, Totals]:
    """Return the right totals of each inode that has rows.

    Args:
        pages: returns the rows of a table. Extents that do not decode count as none.
    """
    mapped: dict[int, int] = {}
    for key, value in pages(Table.EXTENTS):
        with contextlib.suppress(CorruptIndex):
            inode, start = pair_of(key)
            mapped[inode] = mapped.get(inode, 0) + Extent.from_bytes(start, value).length
    staging, xattrs, tensors = (
        Counter(number_of(key) for table in tables for key, _ in pages(table))
        for tables in (STAGING_TABLES, (Table.XATTRS,), (Table.TENSORS,))
    )
    names = (key for key, _ in pages(Table.META))
    staging.update(map(number_of, windows_of_checksums(names)))
    return {
        inode: Totals(staging[inode], mapped.get(inode, 0), xattrs[inode], tensors[inode])
        for inode in {*mapped, *staging, *xattrs, *tensors}
    }


def with_totals(totals: dict[int, Totals], key: bytes, value: bytes) -> bytes:
    """Return the value of a row of `inodes` with the inode's totals; as it is, if it is damaged."""
    try:
        node = Inode.from_row(key, value)
    except CorruptIndex:
        return value
    return totals.get(node.inode, Totals()).put_into(node).to_bytes()
