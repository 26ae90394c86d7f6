"""Repair of single rows: those that do not decode, and those of inodes that do not exist."""

import dataclasses
import stat
from typing import Final

from modelfs.jobs.check.rows import OF_INODES
from modelfs.jobs.repair.context import RepairContext
from modelfs.store.files.window import window_name
from modelfs.store.index.records import WindowRanges
from modelfs.store.index.superblock import FORMAT_VERSION, SUPERBLOCK
from modelfs.store.index.tables import (
    Table,
    number_key,
    number_of,
    numbers_of,
    pair_of,
    request_value,
)
from modelfs.store.upgrade import begin_upgrade

# Without a row of these tables, something is lost. The rows of all others can be restored from
# other tables or made again when they are needed, or a later pass reports the loss.
IRREPLACEABLE: Final = frozenset({Table.XATTRS, Table.TENSORS, Table.SYMLINKS})

# After the loss of a row of the first table, the file is queued in the second: for ingest, which
# makes the rows of its tensors, or for the optimizer.
QUEUES: Final = (
    (Table.TENSORS, Table.PENDING),
    (Table.TO_OPTIMIZE, Table.TO_OPTIMIZE),
)


def remove_unreadable(context: RepairContext) -> None:
    """Set aside the rows that do not decode."""
    for table, broken in context.reported.broken.items():
        keys = sorted(broken)
        for key in keys:
            context.drop(table, key, "it does not decode")
        if not keys:
            continue
        message = f"rows of the table {table.value} that cannot be read, set aside: {len(keys)}"
        if table in IRREPLACEABLE:
            context.quarantined(message, map(context.path, {*numbers_of(keys)}))
        else:
            context.repaired(message)


def requeue(context: RepairContext) -> None:
    """Queue the files whose rows of tensors, or in the optimizer's queue, were set aside."""
    for table, queue in QUEUES:
        for inode in numbers_of(sorted(context.reported.broken[table])):
            node = context.node(inode)
            if node is not None and stat.S_ISREG(node.mode):
                context.index.put(queue, number_key(node.inode), request_value())


def repair_superblock(context: RepairContext) -> None:
    """Give the superblock a known format version, and upgrade the store to this version's."""
    store = context.store
    if not 0 < store.superblock.version <= FORMAT_VERSION:
        store.superblock = dataclasses.replace(store.superblock, version=FORMAT_VERSION)
        context.index.put(Table.META, SUPERBLOCK, store.superblock.to_bytes())
        context.repaired(f"the superblock has the format {FORMAT_VERSION} again")
    # This version writes the repaired rows in its own format.
    store.superblock = begin_upgrade(store.directory, store.index, store.superblock)


def remove_ownerless(context: RepairContext) -> None:
    """Set aside the rows of inodes that do not exist, or that cannot have such rows."""
    for table, regular in OF_INODES:
        for key, record in list(context.rows(table)):
            node = context.node(number_of(key))
            if node is None or (regular and not stat.S_ISREG(node.mode)):
                context.drop(table, key, "it belongs to no inode")
                context.quarantined(f"a row of {table.value} of inode {number_of(key)}: set aside")
                if isinstance(record, WindowRanges):
                    name = window_name(*pair_of(key), record.generation)
                    context.quarantine.add_file(context.store.staging.directory, name)
