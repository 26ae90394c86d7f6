"""Repair of inodes: records that are missing, although other rows mention the inode.

Example. The record of inode 7 is junk. Its last extent ends at 5,000, so inode 7 becomes a regular
file of 5,000 bytes, of the owner of the store's folder, mode 600, with the present time. If the
file was longer, with a hole at its end, its old size is lost.
"""

import dataclasses
import os
import stat

from modelfs.formats.layout import Format
from modelfs.jobs.repair.context import RepairContext
from modelfs.store.files.clock import now_ns
from modelfs.store.files.window import WINDOW
from modelfs.store.index.records import Extent, Inode
from modelfs.store.index.tables import (
    ROOT,
    InodeNumber,
    Table,
    named_key,
    number_key,
    number_of,
    pair_of,
    request_value,
)


def repair_inodes(context: RepairContext) -> None:
    """Make a record for each inode that has content, entries or a target, but no record."""
    root = context.node(ROOT)
    if root is not None and not stat.S_ISDIR(root.mode):
        context.drop(Table.INODES, number_key(ROOT), "the root is no directory")
    make_missing(context, ROOT, stat.S_IFDIR | 0o700, 0)
    # Directories with a name in both look-ups and listings: one alone may have a damaged key.
    folders = {
        number_of(key)
        for key, line in context.rows(Table.LISTING)
        if context.index.get(Table.DENTRIES, named_key(number_of(key), line.name)) is not None
    }
    for inode in folders:
        make_missing(context, inode, stat.S_IFDIR | 0o700, 0)
    for inode, size in _content_sizes(context).items():
        make_missing(context, inode, stat.S_IFREG | 0o600, size)
    for key, target in list(context.rows(Table.SYMLINKS)):
        if target:
            make_missing(context, number_of(key), stat.S_IFLNK | 0o777, len(target))
    _repair_symlinks(context)


def _content_sizes(context: RepairContext) -> dict[int, int]:
    """Return the end of the content of each inode without a record."""
    sizes: dict[int, int] = {}
    for table in (Table.EXTENTS, Table.STAGED):
        for key, record in context.rows(table):
            inode = number_of(key)
            if isinstance(record, Extent):
                stop = record.stop
            else:
                stop = min(record.ranges.stop, (pair_of(key)[1] + 1) * WINDOW)
            if context.node(inode) is None:
                sizes[inode] = max(sizes.get(inode, 0), stop)
    return sizes


def make_missing(context: RepairContext, inode: int, mode: int, size: int) -> None:
    """Make a record with safe metadata for an inode, unless it has one."""
    if context.node(inode) is not None:
        return
    owner, now = os.stat(context.store.directory.link), now_ns()
    node = Inode(
        inode=InodeNumber(inode),
        mode=mode,
        uid=owner.st_uid,
        gid=owner.st_gid,
        nlink=1,
        size=size,
        rdev=0,
        atime_ns=now,
        mtime_ns=now,
        ctime_ns=now,
        parent=ROOT if inode == ROOT else InodeNumber(0),
        format=Format.PLAIN,
    )
    context.put_node(node)
    if stat.S_ISREG(mode):
        context.index.put(Table.PENDING, number_key(inode), request_value())
    path = context.path(inode)
    message = f"inode {inode}: its mode, owner and times are lost"
    if stat.S_ISREG(mode):
        message += f", and its size: it ends where its content ends, at {size}"
    context.quarantined(message, (path,))


def _repair_symlinks(context: RepairContext) -> None:
    """Remove symbolic links without a target, and targets without a link; restore their sizes."""
    for key, node in list(context.rows(Table.INODES)):
        if not stat.S_ISLNK(node.mode):
            continue
        target = context.index.get(Table.SYMLINKS, key)
        if not target:
            context.drop(Table.INODES, key, "a symbolic link without a target")
            message = f"symbolic link {node.inode} has lost its target: removed"
            context.quarantined(message, (context.path(node.inode),))
        elif len(target) != node.size:
            context.put_node(dataclasses.replace(node, size=len(target)))
            context.repaired(f"symbolic link {node.inode} has its size again")
    for key, _ in list(context.rows(Table.SYMLINKS)):
        owner = context.node(number_of(key))
        if owner is None or not stat.S_ISLNK(owner.mode):
            context.drop(Table.SYMLINKS, key, "its inode is no symbolic link")
            context.quarantined(f"a link target of inode {number_of(key)}, which is no link")
