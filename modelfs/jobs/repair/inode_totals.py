"""Repair of files with missing rows, which the totals in their inode records show.

A row that is gone has no trace of its own. If rows of staged content are missing, the newest bytes
of the file are unknown anywhere: the whole file is lost. If extents are missing, only its holes are
lost: see `missing_extents`. Missing attributes are reported, and missing rows of tensors are made
again by ingest. A broken row that is still under its own key is not missing: the
repair of windows and maps loses the range of that key alone.

Example. Inode 5 has 3 rows of staged content by its record: two windows and a truncation. The row
of window 1 is gone, so reads of the file would find older bytes there. It is mapped to a lost
chunk, and the staging files are set aside.
"""

from modelfs.jobs.repair.context import RepairContext
from modelfs.store.files.inode_totals import Totals, count_totals
from modelfs.store.files.window import is_shared, window_name, window_of
from modelfs.store.index.counters import windows_of_checksums
from modelfs.store.index.records import Inode, WindowRanges
from modelfs.store.index.tables import (
    Table,
    number_key,
    number_of,
    numbers_of,
    pair_key,
    pair_of,
    request_value,
)


def lose_incomplete_files(context: RepairContext) -> None:
    """Lose the content of files with missing rows of staged content."""
    if not context.has_totals:
        return
    counted = context.view().inode_totals
    for node in list(context.view().inodes()):
        rows = counted.get(node.inode, Totals()).staging_rows + _in_place(context, node.inode)
        if rows < node.staging_rows:
            keys = pair_key(node.inode, 0), pair_key(node.inode + 1, 0)
            for key, value in list(context.index.pages(Table.STAGED, *keys)):
                name = window_name(*pair_of(key), WindowRanges.from_bytes(value).generation)
                context.quarantine.add_file(context.store.staging.directory, name)
                for table in (Table.STAGED, Table.LOST):
                    context.drop(table, key, "other rows of the file's staged content are missing")
            context.drop(Table.TRIMS, number_key(node.inode), "other rows of the file are missing")
            context.lose(node.inode, 0, node.size)
            message = f"inode {node.inode}: all bytes are lost, rows of staged content are missing"
            tensors = context.view().tensors(node.inode, 0, node.size)
            context.quarantined(message, (context.path(node.inode),), tensors)


def report_missing_rows(context: RepairContext) -> None:
    """Report missing extended attributes, and queue files with missing rows of tensors for ingest.

    Rows that were set aside are reported already.
    """
    if not context.has_totals:
        return
    counted = context.view().inode_totals
    for node in list(context.view().inodes()):
        there = counted.get(node.inode, Totals())
        xattrs = node.xattr_rows - there.xattr_rows - _set_aside(context, Table.XATTRS, node)
        if xattrs > 0:
            message = f"inode {node.inode}: {xattrs} extended attributes are lost"
            context.quarantined(message, (context.path(node.inode),))
        tensors = node.tensor_rows - there.tensor_rows - _set_aside(context, Table.TENSORS, node)
        if tensors > 0:
            context.index.put(Table.PENDING, number_key(node.inode), request_value())
            message = f"inode {node.inode}: ingest makes {tensors} missing rows of tensors again"
            context.repaired(message, (context.path(node.inode),))


def _set_aside(context: RepairContext, table: Table, node: Inode) -> int:
    return [*numbers_of(context.reported.broken[table])].count(node.inode)


def _in_place(context: RepairContext, inode: int) -> int:
    """Return how many broken rows of an inode are under their own keys."""
    names = context.store.staging.directory.names()
    with_file = {window_of(name) for name in names}
    shares = any(window_of(name) == (inode, 0) and is_shared(name) for name in names)
    windows = {
        key
        for key in context.reported.broken[Table.STAGED]
        if len(key) == 16 and (pair_of(key) in with_file or (shares and number_of(key) == inode))
    }
    lost = {
        key
        for key in context.reported.broken[Table.LOST]
        if key in windows or context.index.has(Table.STAGED, key)
    }
    trims = {key for key in context.reported.broken[Table.TRIMS] if len(key) == 8}
    checksums = set(windows_of_checksums(context.reported.broken[Table.META]))
    return [*numbers_of([*windows, *lost, *trims, *checksums])].count(inode)


def recount_totals_of_inodes(context: RepairContext) -> None:
    """Give each inode record the totals of the rows that there are."""
    counted = count_totals(context.index.pages)
    corrected = 0
    for node in list(context.view().inodes()):
        right = counted.get(node.inode, Totals())
        if right != Totals.of(node):
            context.put_node(right.put_into(node))
            corrected += 1
    if corrected and context.has_totals:
        context.repaired(f"inode records whose totals are corrected: {corrected}")
