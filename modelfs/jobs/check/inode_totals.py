"""The totals in inode records: whether all rows of an inode are there.

Example. Inode 5 has 3 MiB of extents by its record, and the table has two of 1 MiB. A row is gone:
`totals_count_the_rows` has a finding, and repair maps the holes of the file to a lost chunk.
"""

import stat
from collections.abc import Iterator
from typing import Final

from modelfs.jobs.check.findings import Finding, Severity
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.check.view import CheckView
from modelfs.store.files.inode_totals import STAGING_TABLES, TOTALS_SINCE, Totals
from modelfs.store.files.staged_checksums import windows_with_checksums
from modelfs.store.index.counters import windows_of_checksums
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import Table, number_key, numbers_of

TABLES: Final = (Table.EXTENTS, *STAGING_TABLES, Table.XATTRS, Table.TENSORS)
# The invariant and the message of a total that has more than the rows, by its name.
MISSING: Final = {
    "mapped": ("map-hole", "extents of {} bytes are missing"),
    "staging_rows": ("staging-rows", "{} rows of staged content are missing"),
    "xattr_rows": ("xattr-rows", "{} extended attributes are missing"),
    "tensor_rows": ("tensor-rows", "{} rows of tensors are missing"),
}


def totals_count_the_rows(view: CheckView, _: Reported) -> Iterator[Finding]:
    """The totals of an inode are those of its rows, unless some of these are broken."""
    if view.store.superblock.version < TOTALS_SINCE:
        return
    broken = {inode for table in TABLES for inode in numbers_of(view.broken[table])}
    broken.update(numbers_of(windows_of_checksums(view.broken[Table.META])))
    for node in view.inodes():
        counted = _comparable(node, view.inode_totals.get(node.inode, Totals()))
        recorded = _comparable(node, Totals.of(node))
        checksums = len(windows_with_checksums(view.index, node.inode)) if counted[0] else 0
        if counted.staging_rows - checksums == recorded.staging_rows:
            # Before 0.2.0 was released, there were stores whose totals do not count checksums.
            recorded = recorded._replace(staging_rows=counted.staging_rows)
        if recorded == counted or node.inode in broken:
            continue
        if view.is_current(Table.INODES, number_key(node.inode)):
            yield from _differences(view, node, recorded, counted)


def _comparable(node: Inode, totals: Totals) -> Totals:
    """Return the totals of rows that an inode of its type can have; others are found as such."""
    return totals if stat.S_ISREG(node.mode) else Totals(xattr_rows=totals.xattr_rows)


def _differences(
    view: CheckView, node: Inode, recorded: Totals, counted: Totals
) -> Iterator[Finding]:
    path = (view.path(node.inode),)
    for name, (invariant, text) in MISSING.items():
        if (missing := getattr(recorded, name) - getattr(counted, name)) > 0:
            holes = view.holes_of(node) if name == "mapped" else ()
            tensors = [name for hole in holes for name in view.tensors(node.inode, *hole)]
            message = f"inode {node.inode}: {text.format(missing)}"
            yield Finding(invariant, message, path, tuple(tensors))
    if any(more > less for more, less in zip(counted, recorded, strict=True)):
        message = f"inode {node.inode} has totals {recorded} instead of {counted}"
        yield Finding("inode-total", message, path, severity=Severity.ACCOUNT)
