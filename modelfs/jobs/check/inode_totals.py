"""The totals in inode records: whether all rows of a file are there.

Example. Inode 5 has 3 MiB of extents by its record, and the table has two of 1 MiB. A row is gone:
`totals_count_the_rows` has a finding, and repair maps the holes of the file to a lost chunk.
"""

from collections.abc import Iterator

from modelfs.jobs.check.findings import Finding, Severity
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.check.view import CheckView
from modelfs.store.files.inode_totals import STAGING_TABLES, TOTALS_SINCE, Totals
from modelfs.store.index.tables import Table, number_key, number_of


def totals_count_the_rows(view: CheckView, _: Reported) -> Iterator[Finding]:
    """The totals of an inode are those of its rows, unless some of these are broken."""
    if view.store.superblock.version < TOTALS_SINCE:
        return
    broken = {
        number_of(key) for table in (Table.EXTENTS, *STAGING_TABLES) for key in view.broken[table]
    }
    for node in view.inodes():
        recorded, counted = Totals.of(node), view.inode_totals.get(node.inode, Totals())
        if recorded == counted or node.inode in broken:
            continue
        if not view.is_current(Table.INODES, number_key(node.inode)):
            continue
        path = (view.path(node.inode),)
        if (missing := recorded.mapped - counted.mapped) > 0:
            message = f"inode {node.inode}: extents of {missing} bytes are missing"
            holes = view.holes_of(node)
            tensors = [name for hole in holes for name in view.tensors(node.inode, *hole)]
            yield Finding("map-hole", message, path, tuple(tensors))
        if (rows := recorded.staging_rows - counted.staging_rows) > 0:
            message = f"inode {node.inode}: {rows} rows of staged content are missing"
            yield Finding("staging-rows", message, path)
        if counted.mapped > recorded.mapped or counted.staging_rows > recorded.staging_rows:
            message = f"inode {node.inode} has totals {recorded} instead of {counted}"
            yield Finding("inode-total", message, path, severity=Severity.ACCOUNT)
