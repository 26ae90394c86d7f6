"""The namespace: the calls of POSIX on directories and the names in them.

Theory of operation. The rows of a name are in `dentries`. A name that a rename replaces keeps its
cookie, and is listed once.

An inode without a name is an *orphan*. It has a row among the orphans until the kernel has no
reference to it and its content is removed. After a crash the orphans are the inodes that were open
without a name. Inode numbers are never used again.

Each method is one change of the index, all or nothing, without an `await` inside, so no lock is
needed. The kernel checks permissions (mount option `default_permissions`).

Example. "a" in folder 1 is inode 5 with cookie 8, "b" is inode 6 with cookie 9. `rename` of "a" to
"b" deletes the three rows of "a" and points those of "b" to 5, still with cookie 9. Inode 6 has no
name now and becomes an orphan. A listing that stopped at cookie 8 goes on with "b".
"""

import dataclasses
import os
import stat
from dataclasses import dataclass
from typing import Final

from modelfs.errors import (
    AlreadyExists,
    CorruptIndex,
    DirectoryNotEmpty,
    InvalidArgument,
    IsADirectory,
    NameTooLong,
    NotADirectory,
    NotFound,
    NotPermitted,
    TooManyLinks,
)
from modelfs.formats.layout import Format
from modelfs.store.files.clock import now_ns
from modelfs.store.files.dentries import Dentries
from modelfs.store.files.inodes import Inodes
from modelfs.store.index.index import Index
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import ROOT, InodeNumber, Table, number_key

TARGET_MAX: Final = 4095
LINK_MAX: Final = (1 << 32) - 2


@dataclass(frozen=True, slots=True)
class Owner:
    """The user and group of a new inode."""

    uid: int
    gid: int


class Namespace:
    """Directory entries, and the link counts and times of the inodes they refer to."""

    def __init__(self, index: Index, dentries: Dentries, inodes: Inodes) -> None:
        self._index = index
        self._inodes = inodes
        self._dentries = dentries

    # -- reading

    def lookup(self, folder: InodeNumber, name: bytes) -> InodeNumber:
        """Return the inode of a name, which may be "." or "..".

        "." works for every inode, not only for directories: with it the kernel looks up an inode
        that it has forgotten, for a file handle (NFS, open_by_handle_at).

        Raises:
            NotFound: the name does not exist.
            NotADirectory: `folder` is no directory.
        """
        if name in (b".", b".."):
            node = self._inodes.get(folder) if name == b"." else self._directory(folder)
            if not node.nlink:
                raise NotFound(f"inode {folder} was removed")
            return folder if name == b"." else node.parent
        if (dentry := self._dentries.find(folder, name)) is None:
            self._directory(folder)
            raise NotFound(f"{os.fsdecode(name)} does not exist in directory {folder}")
        return dentry.inode

    def path_of(self, inode: InodeNumber) -> bytes:
        """Return a path of an inode from the root: one of several if it has hard links.

        "(inode 5)" if inode 5 has no path, or damaged rows hide it. In an index with a cycle,
        10,000 names of it.
        """
        parts: list[bytes] = []
        at = inode
        while at != ROOT and len(parts) < 10_000:
            link = next(self._dentries.names_of(at), None)
            if link is None:
                return b"(inode %d)" % inode
            at, name = link
            parts.append(name)
        return b"/" + b"/".join(reversed(parts))

    def readlink(self, inode: InodeNumber) -> bytes:
        """Return the target of a symbolic link.

        Raises:
            InvalidArgument: the inode is no symbolic link.
            CorruptIndex: its target is damaged or missing.
        """
        target = self._index.get(Table.SYMLINKS, number_key(inode))
        if target is None:
            if stat.S_ISLNK(self._inodes.get(inode).mode):
                raise CorruptIndex(f"the target of inode {inode} is missing")
            raise InvalidArgument(f"inode {inode} is no symbolic link")
        return target

    # -- creating

    def create(
        self, folder: InodeNumber, name: bytes, mode: int, owner: Owner, rdev: int = 0
    ) -> Inode:
        """Create a file, directory or device node, by the type bits of `mode`.

        Raises:
            AlreadyExists: the name exists.
            NameTooLong: the name has more than 255 bytes.
            InvalidArgument: the name is empty, "." or "..", or contains "/" or NUL.
            NotADirectory: `folder` is no directory.
            NotFound: `folder` was removed.
        """
        parent = self._directory(folder)
        self._check_free(parent, name)
        is_folder = stat.S_ISDIR(mode)
        gid = owner.gid
        if parent.mode & stat.S_ISGID:
            gid = parent.gid
            mode |= stat.S_ISGID if is_folder else 0
        now = now_ns()
        with self._index.change():
            node = Inode(
                inode=self._inodes.new_number(),
                mode=mode,
                uid=owner.uid,
                gid=gid,
                nlink=2 if is_folder else 1,
                size=0,
                rdev=rdev,
                atime_ns=now,
                mtime_ns=now,
                ctime_ns=now,
                parent=folder if is_folder else InodeNumber(0),
                format=Format.PLAIN,
            )
            self._inodes.put(node)
            self._dentries.add(folder, name, node.inode)
            self._touch_folder(folder, subfolders=int(is_folder))
        return node

    def symlink(self, folder: InodeNumber, name: bytes, target: bytes, owner: Owner) -> Inode:
        """Create a symbolic link.

        Raises:
            NameTooLong: the target has more than 4,095 bytes.
            AlreadyExists, InvalidArgument, NotADirectory, NotFound: as `create`.
        """
        if len(target) > TARGET_MAX:
            raise NameTooLong(f"a link target of {len(target)} bytes")
        with self._index.change():
            node = self.create(folder, name, stat.S_IFLNK | 0o777, owner)
            node = dataclasses.replace(node, size=len(target))
            self._inodes.put(node)
            self._index.put(Table.SYMLINKS, number_key(node.inode), target)
        return node

    def link(self, inode: InodeNumber, folder: InodeNumber, name: bytes) -> None:
        """Add a name to a file: a hard link.

        Raises:
            NotPermitted: the inode is a directory.
            NotFound: the inode's last name was removed.
            TooManyLinks: the inode has `LINK_MAX` names.
            AlreadyExists, NameTooLong, InvalidArgument, NotADirectory: as `create`.
        """
        node = self._inodes.get(inode)
        if stat.S_ISDIR(node.mode):
            raise NotPermitted("a hard link to a directory")
        if not node.nlink:
            raise NotFound(f"inode {inode} was removed")
        if node.nlink >= LINK_MAX:
            raise TooManyLinks(f"inode {inode} has {node.nlink} names")
        self._check_free(self._directory(folder), name)
        with self._index.change():
            self._inodes.touch(node, nlink=node.nlink + 1)
            self._dentries.add(folder, name, inode)
            self._touch_folder(folder)

    # -- removing

    def unlink(self, folder: InodeNumber, name: bytes) -> InodeNumber:
        """Remove a name of a file, link or device node, and return its inode.

        Raises:
            NotFound: the name does not exist.
            IsADirectory: it is a directory's name.
        """
        dentry = self._dentries.entry(folder, name)
        node = self._inodes.get(dentry.inode)
        if stat.S_ISDIR(node.mode):
            raise IsADirectory(f"{os.fsdecode(name)} is a directory")
        with self._index.change():
            self._dentries.remove(folder, name, dentry)
            self._drop_link(node)
            self._touch_folder(folder)
        return node.inode

    def rmdir(self, folder: InodeNumber, name: bytes) -> InodeNumber:
        """Remove an empty directory, and return its inode.

        Raises:
            NotFound: the name does not exist.
            NotADirectory: it is no directory's name.
            DirectoryNotEmpty: the directory has entries.
        """
        dentry = self._dentries.entry(folder, name)
        node = self._directory(dentry.inode)
        if not self._dentries.is_empty(node.inode):
            raise DirectoryNotEmpty(f"directory {os.fsdecode(name)} is not empty")
        with self._index.change():
            self._dentries.remove(folder, name, dentry)
            self._drop_link(node)
            self._touch_folder(folder, subfolders=-1)
        return node.inode

    # -- renaming

    def rename(
        self,
        old: tuple[InodeNumber, bytes],
        new: tuple[InodeNumber, bytes],
        *,
        replace: bool = True,
    ) -> InodeNumber | None:
        """Rename `old` to `new`, each a folder and a name.

        Returns:
            The inode whose name was replaced, None if there is none.

        Raises:
            NotFound: the old name does not exist, or the new folder was removed.
            AlreadyExists: the new name exists, and `replace` is not set.
            InvalidArgument: a directory would lie below itself.
            IsADirectory, NotADirectory, DirectoryNotEmpty: the new name exists, and its inode
                cannot be replaced by the old one.
        """
        dentry = self._dentries.entry(*old)
        target = self._dentries.find(*new)
        node = self._inodes.get(dentry.inode)
        self._check_not_below(node, new[0])
        if target is None:
            with self._index.change():
                self._dentries.remove(*old, dentry)
                self._dentries.add(*new, dentry.inode)
                self._touch_moved(node, old[0], new[0])
            return None
        if not replace:
            raise AlreadyExists(f"{os.fsdecode(new[1])} exists already")
        if target.inode == dentry.inode:
            return None
        victim = self._inodes.get(target.inode)
        self._check_replaceable(node, victim)
        with self._index.change():
            self._dentries.remove(*old, dentry)
            self._dentries.point(*new, target, dentry.inode)
            self._drop_link(victim)
            if stat.S_ISDIR(victim.mode):
                self._touch_folder(new[0], subfolders=-1)
            self._touch_moved(self._inodes.get(node.inode), old[0], new[0])
        return target.inode

    def exchange(self, one: tuple[InodeNumber, bytes], two: tuple[InodeNumber, bytes]) -> None:
        """Exchange two names, of any kinds.

        Raises:
            NotFound: one of the names does not exist, or a folder was removed.
            InvalidArgument: a directory would lie below itself.
        """
        first, second = self._dentries.entry(*one), self._dentries.entry(*two)
        first_node, second_node = self._inodes.get(first.inode), self._inodes.get(second.inode)
        self._check_not_below(first_node, two[0])
        self._check_not_below(second_node, one[0])
        with self._index.change():
            self._dentries.point(*one, first, second.inode)
            self._dentries.point(*two, second, first.inode)
            self._touch_moved(first_node, one[0], two[0])
            self._touch_moved(self._inodes.get(second.inode), two[0], one[0])

    # -- inodes whose names were changed

    def _drop_link(self, node: Inode) -> None:
        """Count one name fewer of an inode; without a name it becomes an orphan."""
        nlink = 0 if stat.S_ISDIR(node.mode) else node.nlink - 1
        self._inodes.touch(node, nlink=nlink, parent=0)
        if not nlink:
            self._index.put(Table.ORPHANS, number_key(node.inode), b"")

    def _touch_folder(self, folder: InodeNumber, *, subfolders: int = 0) -> None:
        """Set the times of a folder whose entries were changed, and count its subfolders."""
        node = self._inodes.get(folder)
        self._inodes.touch(node, mtime_ns=now_ns(node.mtime_ns), nlink=node.nlink + subfolders)

    def _touch_moved(self, node: Inode, source: InodeNumber, target: InodeNumber) -> None:
        """Set the times of a moved inode and its folders; a directory's parent and link counts."""
        is_folder, is_new_folder = stat.S_ISDIR(node.mode), source != target
        self._inodes.touch(node, **({"parent": target} if is_folder else {}))
        self._touch_folder(source, subfolders=-1 if is_folder and is_new_folder else 0)
        if is_new_folder:
            self._touch_folder(target, subfolders=int(is_folder))

    # -- checks

    def _directory(self, inode: InodeNumber) -> Inode:
        node = self._inodes.get(inode)
        if not stat.S_ISDIR(node.mode):
            raise NotADirectory(f"inode {inode} is no directory")
        return node

    def _check_free(self, folder: Inode, name: bytes) -> None:
        if self._dentries.find(folder.inode, name) is not None:
            raise AlreadyExists(f"{os.fsdecode(name)} exists already")
        if not folder.nlink:
            raise NotFound(f"directory {folder.inode} was removed")

    def _check_not_below(self, node: Inode, folder: InodeNumber) -> None:
        target = self._directory(folder)
        if not target.nlink:
            raise NotFound(f"directory {folder} was removed")
        if not stat.S_ISDIR(node.mode):
            return
        steps = 0
        while target.inode != ROOT:
            if target.inode == node.inode:
                raise InvalidArgument("a directory cannot lie below itself")
            target = self._directory(target.parent)
            if (steps := steps + 1) > 100_000:
                raise CorruptIndex(f"the parents of directory {folder} do not end at the root")

    def _check_replaceable(self, node: Inode, victim: Inode) -> None:
        if stat.S_ISDIR(victim.mode):
            if not stat.S_ISDIR(node.mode):
                raise IsADirectory("the new name is a directory")
            if not self._dentries.is_empty(victim.inode):
                raise DirectoryNotEmpty("the new name is a directory with entries")
        elif stat.S_ISDIR(node.mode):
            raise NotADirectory("the new name is no directory")
