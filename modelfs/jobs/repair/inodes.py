"""Repair of inodes: those that are missing though there is something of theirs."""

import dataclasses
import stat
import time

from modelfs.formats.layout import Format
from modelfs.jobs.repair.context import RepairContext
from modelfs.store.files.staged_file import WINDOW
from modelfs.store.index.records import Extent, Inode, StagedWindow
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
    """Give every inode a record that has content, entries or a target, and no other."""
    _mend_root(context)
    for inode in _filled_folders(context):
        remake(context, inode, stat.S_IFDIR | 0o700, 0)
    for inode, size in _contents(context).items():
        remake(context, inode, stat.S_IFREG | 0o600, size)
    for key, target in list(context.rows(Table.SYMLINKS)):
        if context.node(number_of(key)) is None and target:
            remake(context, number_of(key), stat.S_IFLNK | 0o777, len(target))
    _mend_symlinks(context)


def _mend_root(context: RepairContext) -> None:
    root = context.node(ROOT)
    if root is not None and not stat.S_ISDIR(root.mode):
        context.drop(Table.INODES, number_key(ROOT), "the root is no directory")
    remake(context, ROOT, stat.S_IFDIR | 0o700, 0)


def _filled_folders(context: RepairContext) -> set[int]:
    # Those of a name that both look-ups and listings have: one alone may be a damaged key.
    return {
        number_of(key)
        for key, line in context.rows(Table.LISTING)
        if context.index.get(Table.DENTRIES, named_key(number_of(key), line.name)) is not None
    }


def _contents(context: RepairContext) -> dict[int, int]:
    # Where the content ends of inodes without a record.
    found: dict[int, int] = {}
    for table in (Table.EXTENTS, Table.STAGED):
        for key, record in context.rows(table):
            inode = number_of(key)
            if context.node(inode) is None:
                found[inode] = max(found.get(inode, 0), _stop(key, record))
    return found


def _stop(key: bytes, record: Extent | StagedWindow) -> int:
    if isinstance(record, Extent):
        return record.stop
    return min(record.ranges.stop, (pair_of(key)[1] + 1) * WINDOW)


def remake(context: RepairContext, inode: int, mode: int, size: int) -> None:
    """Give an inode that has no record one, with what is safe for metadata."""
    if context.node(inode) is not None:
        return
    owner, now = context.store.folder.stat(), time.time_ns()
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
        context.put(Table.PENDING, number_key(inode), request_value())
    path = context.path(inode)
    what = f"inode {inode}: its mode, owner and times are lost"
    if stat.S_ISREG(mode):
        what += f", and its size but for where its content ends, {size}"
    context.quarantined(what, (path,))


def _mend_symlinks(context: RepairContext) -> None:
    for key, node in list(context.rows(Table.INODES)):
        if not stat.S_ISLNK(node.mode):
            continue
        target = context.index.get(Table.SYMLINKS, key)
        if not target:
            context.drop(Table.INODES, key, "a symbolic link without a target")
            message = f"symbolic link {node.inode} had no target any more: removed"
            context.quarantined(message, (context.path(node.inode),))
        elif len(target) != node.size:
            context.put_node(dataclasses.replace(node, size=len(target)))
            context.repaired(f"symbolic link {node.inode} has its size again")
    for key, _ in list(context.rows(Table.SYMLINKS)):
        owner = context.node(number_of(key))
        if owner is None or not stat.S_ISLNK(owner.mode):
            context.drop(Table.SYMLINKS, key, "its inode is no symbolic link")
            context.quarantined(f"a link target of inode {number_of(key)}, which is no link")
