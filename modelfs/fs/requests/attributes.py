"""Conversion between the store's records and the structures of pyfuse3."""

import stat
from typing import Final

import pyfuse3
from pyfuse3 import EntryAttributes, InodeT, ModeT, SetattrFields, StatvfsData

from modelfs.store.disk.space import Room
from modelfs.store.files.attributes import Change
from modelfs.store.files.content import Contents
from modelfs.store.index.name_records import NAME_MAX
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import InodeNumber

# How long the kernel may cache names and attributes, in seconds. Files change through the kernel
# only, so its caches are never out of date.
TIMEOUT: Final = 300.0
BLOCK: Final = 4096
# st_blksize, which programs use as their buffer size: few requests, and a power of two for direct
# I/O.
PREFERRED_IO: Final = 128 << 10


def attributes_of(contents: Contents, inode: InodeNumber) -> EntryAttributes:
    """Return the attributes of an inode.

    Raises:
        NotFound: there is no such inode.
        CorruptIndex: its record is damaged.
    """
    node = contents.node(inode)
    entry = entry_of(node, contents.allocated(node) if stat.S_ISREG(node.mode) else node.size)
    if contents.is_live(inode):
        entry.attr_timeout = 0.0  # the kernel does not notice writes through a mapping
    return entry


def entry_of(node: Inode, allocated: int) -> EntryAttributes:
    """Return an inode record as the kernel's attributes; `allocated` bytes are not in holes."""
    entry = EntryAttributes()
    entry.st_ino = InodeT(node.inode)
    entry.generation = 0
    entry.entry_timeout = TIMEOUT
    entry.attr_timeout = TIMEOUT
    entry.st_mode = ModeT(node.mode)
    entry.st_nlink = node.nlink
    entry.st_uid = node.uid
    entry.st_gid = node.gid
    entry.st_rdev = node.rdev
    entry.st_size = BLOCK if stat.S_ISDIR(node.mode) else node.size
    entry.st_blksize = PREFERRED_IO
    # A file with content has a block: tar takes one without for a single hole, and the kernel may
    # cache the number from before a write through a mapping.
    entry.st_blocks = max((allocated + 511) // 512, min(node.size, 1))
    entry.st_atime_ns = node.atime_ns
    entry.st_mtime_ns = node.mtime_ns
    entry.st_ctime_ns = node.ctime_ns
    return entry


def no_entry() -> EntryAttributes:
    """Return the answer to a lookup of a missing name, which the kernel then caches."""
    entry = EntryAttributes()
    entry.st_ino = InodeT(0)
    entry.entry_timeout = TIMEOUT
    return entry


def change_of(entry: EntryAttributes, fields: SetattrFields) -> Change:
    """Return the changes of a setattr request, except for the size."""
    return Change(
        mode=entry.st_mode if fields.update_mode else None,
        uid=entry.st_uid if fields.update_uid else None,
        gid=entry.st_gid if fields.update_gid else None,
        atime_ns=entry.st_atime_ns if fields.update_atime else None,
        mtime_ns=entry.st_mtime_ns if fields.update_mtime else None,
    )


def statvfs_of(room: Room) -> StatvfsData:
    """Return the room for writers in the form of statfs(2)."""
    data = StatvfsData()
    data.f_bsize = data.f_frsize = BLOCK
    data.f_blocks = room.total // BLOCK
    data.f_bfree = data.f_bavail = room.free // BLOCK
    data.f_files = room.inodes
    data.f_ffree = data.f_favail = room.free_inodes
    data.f_namemax = NAME_MAX
    return data


def is_exchange(flags: int) -> bool:
    return bool(flags & pyfuse3.RENAME_EXCHANGE)


def is_noreplace(flags: int) -> bool:
    return bool(flags & pyfuse3.RENAME_NOREPLACE)
