"""Attributes of inodes: mode, owner, times, and extended attributes."""

import dataclasses
import stat
from collections import deque
from collections.abc import Iterator
from typing import Final

from modelfs.errors import (
    AttributeTooLarge,
    CorruptIndex,
    InvalidArgument,
    NoAttribute,
    NotSupported,
)
from modelfs.store.files.clock import clamped
from modelfs.store.files.inode_totals import add_to_totals
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.staging import Staging
from modelfs.store.index.index import Index
from modelfs.store.index.tables import InodeNumber, Table, named_key, number_key, prefix_end

VALUE_MAX: Final = 64 << 10  # the kernel's XATTR_SIZE_MAX
# Attributes that are counted when one is absent, in some 10 ms. The names of more have over 64 KiB,
# which the kernel does not list.
COUNTED_MAX: Final = 10_000
# The namespaces of xattr(7) without `system.`, which has ACLs: a file system that stores ACLs has
# to enforce them, and the mount option `default_permissions` enforces mode bits only.
NAMESPACES: Final = (b"user.", b"trusted.", b"security.")


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """New values of attributes; None leaves a field unchanged. Times are in ns since the epoch."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None

    def is_empty(self) -> bool:
        return self == Change()


class Attributes:
    """Changes modes, owners and times, and stores extended attributes."""

    def __init__(self, index: Index, inodes: Inodes, staging: Staging) -> None:
        self._index = index
        self._inodes = inodes
        self._staging = staging

    def set(self, inode: InodeNumber, change: Change) -> None:
        """Change mode bits, owner or times. Times that a record has no room for are clamped.

        A new owner or group clears setuid and setgid, as `drop_privileges` does, unless the mode
        is set as well.
        """
        node = self._inodes.get(inode)
        new = {"uid": change.uid, "gid": change.gid}
        for name, time_ns in (("atime_ns", change.atime_ns), ("mtime_ns", change.mtime_ns)):
            new[name] = None if time_ns is None else clamped(time_ns)
        fields = {name: value for name, value in new.items() if value is not None}
        if change.mode is not None:
            fields["mode"] = stat.S_IFMT(node.mode) | stat.S_IMODE(change.mode)
        elif (change.uid is not None or change.gid is not None) and not stat.S_ISDIR(node.mode):
            fields["mode"] = _without_privileges(node.mode)
        with self._index.change():
            self._inodes.touch(node, **fields)
        staged = self._staging.find(inode)
        if staged is not None and "mtime_ns" in fields:
            # Until a flush, the times of the staged state hide those of the record.
            staged.mtime_ns = fields["mtime_ns"]
            if staged.whole is not None:
                staged.whole.set_mtime(staged.mtime_ns)

    def drop_privileges(self, inode: InodeNumber) -> None:
        """Clear setuid and setgid of a file, because its content was changed.

        As in other file systems, setgid is cleared where the group may execute. They also clear a
        setgid without group execution, which has no effect, if the writer is not in the group; a
        write request of FUSE does not contain the writer.
        """
        node = self._inodes.get(inode)
        if node.mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(node.mode):
            with self._index.change():
                self._inodes.touch(node, mode=_without_privileges(node.mode))

    # -- extended attributes

    def get(self, inode: InodeNumber, name: bytes) -> bytes:
        """Return an extended attribute's value.

        Raises:
            NoAttribute: the inode has no attribute of this name.
            NotSupported: the name is in none of the supported namespaces.
            InvalidArgument: the name is a namespace and no more.
            CorruptIndex: the attribute is damaged, or it may be one that is missing. If the inode
                has more than `COUNTED_MAX`, only fsck finds that one is missing.
        """
        _check_name(name)
        value = self._index.get(Table.XATTRS, named_key(inode, name))
        if value is None:
            if 0 < self._counted(inode) <= COUNTED_MAX:
                deque(self.names(inode), maxlen=0)
            raise NoAttribute(f"no extended attribute {name.decode(errors='replace')}")
        return value

    def put(self, inode: InodeNumber, name: bytes, value: bytes) -> None:
        """Set an extended attribute.

        Raises:
            AttributeTooLarge: the value has more than 64 KiB.
            NotSupported, InvalidArgument: as `get`.
        """
        _check_name(name)
        if len(value) > VALUE_MAX:
            raise AttributeTooLarge(f"an extended attribute of {len(value)} bytes")
        node = self._inodes.get(inode)
        key = named_key(inode, name)
        with self._index.change():
            is_new = not self._index.has(Table.XATTRS, key)
            self._index.put(Table.XATTRS, key, value)
            add_to_totals(self._index, inode, xattr_rows=int(is_new))
            self._inodes.touch(node)

    def remove(self, inode: InodeNumber, name: bytes) -> None:
        """Remove an extended attribute. Raises as `get`."""
        self.get(inode, name)
        node = self._inodes.get(inode)
        with self._index.change():
            self._index.delete(Table.XATTRS, named_key(inode, name))
            add_to_totals(self._index, inode, xattr_rows=-1)
            self._inodes.touch(node)

    def names(self, inode: InodeNumber) -> Iterator[bytes]:
        """Yield the names of an inode's extended attributes.

        Raises:
            CorruptIndex: one is damaged; after the last name, that some are missing.
        """
        start = number_key(inode)
        missing = self._counted(inode)
        for key, _ in self._index.pages(Table.XATTRS, start, prefix_end(start)):
            yield key[8:]
            missing -= 1
        if missing > 0:
            raise CorruptIndex(f"{missing} extended attributes of inode {inode} are missing")

    def _counted(self, inode: InodeNumber) -> int:
        """Return how many attributes an inode has by its record."""
        node = self._inodes.find(inode)
        return 0 if node is None else node.xattr_rows


def _without_privileges(mode: int) -> int:
    if mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    return mode & ~stat.S_ISUID


def _check_name(name: bytes) -> None:
    if not name.startswith(NAMESPACES):
        raise NotSupported(f"extended attribute {name.decode(errors='replace')}: not supported")
    if name in NAMESPACES:
        raise InvalidArgument(f"extended attribute {name.decode()}: the name is empty")
