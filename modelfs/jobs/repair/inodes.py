"""Repair of inodes: those that are missing though there is something of theirs."""

import dataclasses
import stat
import time

from modelfs.formats.layout import Format
from modelfs.jobs.repair.context import Mending
from modelfs.store.files.staging import WINDOW
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


def mend_inodes(mending: Mending) -> None:
    """Give every inode a record that has content, entries or a target, and no other."""
    _mend_root(mending)
    for inode in _filled_folders(mending):
        remake(mending, inode, stat.S_IFDIR | 0o700, 0)
    for inode, size in _contents(mending).items():
        remake(mending, inode, stat.S_IFREG | 0o600, size)
    for key, target in list(mending.rows(Table.SYMLINKS)):
        if mending.node(number_of(key)) is None and target:
            remake(mending, number_of(key), stat.S_IFLNK | 0o777, len(target))
    _mend_symlinks(mending)


def _mend_root(mending: Mending) -> None:
    root = mending.node(ROOT)
    if root is not None and not stat.S_ISDIR(root.mode):
        mending.drop(Table.INODES, number_key(ROOT), "the root is no directory")
    remake(mending, ROOT, stat.S_IFDIR | 0o700, 0)


def _filled_folders(mending: Mending) -> set[int]:
    # Those of a name that both look-ups and listings have: one alone may be a damaged key.
    return {
        number_of(key)
        for key, line in mending.rows(Table.LISTING)
        if mending.index.get(Table.DENTRIES, named_key(number_of(key), line.name)) is not None
    }


def _contents(mending: Mending) -> dict[int, int]:
    # Where the content ends of inodes without a record.
    found: dict[int, int] = {}
    for table in (Table.EXTENTS, Table.STAGED):
        for key, record in mending.rows(table):
            inode = number_of(key)
            if mending.node(inode) is None:
                found[inode] = max(found.get(inode, 0), _stop(key, record))
    return found


def _stop(key: bytes, record: Extent | StagedWindow) -> int:
    if isinstance(record, Extent):
        return record.stop
    return min(record.ranges.stop, (pair_of(key)[1] + 1) * WINDOW)


def remake(mending: Mending, inode: int, mode: int, size: int) -> None:
    """Give an inode that has no record one, with what is safe for metadata."""
    if mending.node(inode) is not None:
        return
    owner, now = mending.store.folder.stat(), time.time_ns()
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
    mending.put_node(node)
    if stat.S_ISREG(mode):
        mending.put(Table.PENDING, number_key(inode), request_value())
    path = mending.path(inode)
    what = f"inode {inode}: its mode, owner and times are lost"
    if stat.S_ISREG(mode):
        what += f", and its size but for where its content ends, {size}"
    mending.quarantined(what, (path,))


def _mend_symlinks(mending: Mending) -> None:
    for key, node in list(mending.rows(Table.INODES)):
        if not stat.S_ISLNK(node.mode):
            continue
        target = mending.index.get(Table.SYMLINKS, key)
        if not target:
            mending.drop(Table.INODES, key, "a symbolic link without a target")
            message = f"symbolic link {node.inode} had no target any more: removed"
            mending.quarantined(message, (mending.path(node.inode),))
        elif len(target) != node.size:
            mending.put_node(dataclasses.replace(node, size=len(target)))
            mending.mended(f"symbolic link {node.inode} has its size again")
    for key, _ in list(mending.rows(Table.SYMLINKS)):
        owner = mending.node(number_of(key))
        if owner is None or not stat.S_ISLNK(owner.mode):
            mending.drop(Table.SYMLINKS, key, "its inode is no symbolic link")
            mending.quarantined(f"a link target of inode {number_of(key)}, which is no link")
