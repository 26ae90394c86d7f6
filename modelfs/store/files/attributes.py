"""Modes, owners, times and extended attributes."""

import dataclasses
import stat
from collections.abc import Iterator
from typing import Final

from modelfs.errors import AttributeTooLarge, InvalidArgument, NoAttribute, NotSupported
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.staging import Staging
from modelfs.store.index.index import Index
from modelfs.store.index.tables import InodeNumber, Table, named_key, number_key, prefix_end

VALUE_MAX: Final = 64 << 10  # the kernel's XATTR_SIZE_MAX
# xattr(7), without `system.`: ACLs would have to be enforced, and `default_permissions` enforces
# mode bits only.
NAMESPACES: Final = (b"user.", b"trusted.", b"security.")


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """What to set; None leaves a field as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None

    def is_empty(self) -> bool:
        return self == Change()


class Attributes:
    """What an inode has besides its content and its names."""

    def __init__(self, index: Index, inodes: Inodes, staging: Staging) -> None:
        self._index = index
        self._inodes = inodes
        self._staging = staging

    def set(self, inode: InodeNumber, change: Change) -> None:
        """Change mode bits, owner or times."""
        node = self._inodes.get(inode)
        fields = {
            name: value
            for name in ("uid", "gid", "atime_ns", "mtime_ns")
            if (value := getattr(change, name)) is not None
        }
        if change.mode is not None:
            fields["mode"] = stat.S_IFMT(node.mode) | stat.S_IMODE(change.mode)
        elif (change.uid is not None or change.gid is not None) and not stat.S_ISDIR(node.mode):
            fields["mode"] = _harmless(node.mode)
        with self._index.change():
            self._inodes.touch(node, **fields)
        staged = self._staging.find(inode)
        if staged is not None and change.mtime_ns is not None:
            # The times of staged content win over the record's until they are flushed.
            staged.mtime_ns = change.mtime_ns

    def drop_privileges(self, inode: InodeNumber) -> None:
        """Clear the bits that let a file run as somebody else, because it was changed.

        As other file systems do: setuid, and setgid where the group may execute. Those also clear
        a setgid without group execution, which has no effect, when the writer is not of the group;
        a write request does not tell who writes.
        """
        node = self._inodes.get(inode)
        if node.mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(node.mode):
            with self._index.change():
                self._inodes.touch(node, mode=_harmless(node.mode))

    # -- extended attributes

    def get(self, inode: InodeNumber, name: bytes) -> bytes:
        """Return an extended attribute's value.

        Raises:
            NoAttribute: there is none of that name.
            NotSupported: a kind that no file of the store has.
        """
        _check_kind(name)
        value = self._index.get(Table.XATTRS, named_key(inode, name))
        if value is None:
            raise NoAttribute(name.decode(errors="replace"))
        return value

    def put(self, inode: InodeNumber, name: bytes, value: bytes) -> None:
        _check_kind(name)
        if len(value) > VALUE_MAX:
            raise AttributeTooLarge(f"{len(value)} bytes")
        node = self._inodes.get(inode)
        with self._index.change():
            self._index.put(Table.XATTRS, named_key(inode, name), value)
            self._inodes.touch(node)

    def remove(self, inode: InodeNumber, name: bytes) -> None:
        self.get(inode, name)
        node = self._inodes.get(inode)
        with self._index.change():
            self._index.delete(Table.XATTRS, named_key(inode, name))
            self._inodes.touch(node)

    def names(self, inode: InodeNumber) -> Iterator[bytes]:
        """Yield the names of an inode's extended attributes."""
        start = number_key(inode)
        for key, _ in self._index.pages(Table.XATTRS, start, prefix_end(start)):
            yield key[8:]


def _harmless(mode: int) -> int:
    if mode & stat.S_IXGRP:
        mode &= ~stat.S_ISGID
    return mode & ~stat.S_ISUID


def _check_kind(name: bytes) -> None:
    if not name.startswith(NAMESPACES):
        raise NotSupported(name.decode(errors="replace"))
    if name in NAMESPACES:
        raise InvalidArgument(f"{name.decode()} is no name")
