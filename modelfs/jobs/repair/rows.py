"""Repair of single rows: those that do not decode, and those that belong to nobody."""

import dataclasses
import stat
from typing import Final

from modelfs.jobs.check.rows import OF_INODES
from modelfs.jobs.repair.context import RepairContext
from modelfs.store.files.staged_file import window_name
from modelfs.store.folder import upgrade
from modelfs.store.index.records import FORMAT_VERSION, SUPERBLOCK, StagedWindow
from modelfs.store.index.tables import Table, number_key, number_of, pair_of, request_value

# What these tables say can be told from others, or is made anew when it is needed; or else a later
# pass says what came of it.
TOLD_AGAIN: Final = frozenset(Table) - {Table.XATTRS, Table.TENSORS, Table.SYMLINKS}

# Who tells of a file again: ingest of its tensors, the optimizer of how they are stored.
ASKED: Final = (
    (Table.TENSORS, Table.PENDING),
    (Table.TO_OPTIMIZE, Table.TO_OPTIMIZE),
)


def remove_unreadable(context: RepairContext) -> None:
    """Set aside the rows that do not decode."""
    for table in Table:
        keys = sorted(context.reported.broken[table])
        context.unreadable[table] = keys
        for key in keys:
            context.drop(table, key, "it does not decode")
        if not keys:
            continue
        message = f"rows of the table {table.value} that cannot be read, set aside: {len(keys)}"
        if table in TOLD_AGAIN:
            context.repaired(message)
        else:
            context.quarantined(message, {context.path(number_of(key)) for key in keys})


def requeue(context: RepairContext) -> None:
    """Have a file looked at again of which a row was set aside that came of that."""
    for table, request in ASKED:
        for key in context.unreadable[table]:
            node = context.node(number_of(key)) if len(key) >= 8 else None
            if node is not None and stat.S_ISREG(node.mode):
                context.put(request, number_key(node.inode), request_value())


def repair_superblock(context: RepairContext) -> None:
    """Let the superblock have a format version that there is, and the store this version's."""
    store = context.store
    if not 0 < store.superblock.version <= FORMAT_VERSION:
        right = dataclasses.replace(store.superblock, version=FORMAT_VERSION)
        context.put(Table.META, SUPERBLOCK, right.to_bytes())
        store.superblock = right
        context.repaired(f"the superblock is of format {FORMAT_VERSION} again")
    # Before what is mended is committed, since it is written as this version does.
    store.superblock = upgrade(store.folder, store.index, store.superblock)


def remove_ownerless(context: RepairContext) -> None:
    """Set aside what belongs to no inode, or to one that cannot have it."""
    for table, regular in OF_INODES:
        for key, record in list(context.rows(table)):
            node = context.node(number_of(key))
            if node is None or (regular and not stat.S_ISREG(node.mode)):
                context.drop(table, key, "it belongs to no inode")
                context.quarantined(f"a row of {table.value} of inode {number_of(key)}: set aside")
                if isinstance(record, StagedWindow):
                    name = window_name(*pair_of(key), record.generation)
                    context.quarantine.add_file(context.store.staging.folder / name)
