"""Names: directories and what they hold.

Theory of operation. A name is three rows: the dentry (folder, name) that look-ups go by, the line
(folder, cookie) that listings go by, and the link (inode, folder, cookie) that finds an inode's
names. They are only ever changed together. A cookie is handed out once and never again, so a
listing that stopped at a cookie goes on behind it whatever came and went meanwhile; a name that is
renamed over keeps its cookie, and is listed once.

An inode whose last name goes is an orphan: it has a row of its own until nothing in the kernel
refers to it any more and its content was removed. After a crash, the orphans that are found are
those that were open. Numbers are never used again.

Each method is one change of the index: it is made whole or not at all, and there is no `await`
inside, so nothing needs a lock. Permissions are the kernel's business (`default_permissions`).
"""

import dataclasses
import os
import stat
import time
from collections.abc import Iterator
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
from modelfs.store.files.inodes import Inodes
from modelfs.store.index.counters import NEXT_COOKIE, Counters
from modelfs.store.index.index import Index
from modelfs.store.index.records import Dentry, Inode, Listed
from modelfs.store.index.tables import (
    ROOT,
    InodeNumber,
    Table,
    named_key,
    number_key,
    pair_key,
    pair_of,
    triple_key,
)

NAME_MAX: Final = 255
TARGET_MAX: Final = 4095
LINK_MAX: Final = (1 << 32) - 2
# Cookies 1 and 2 are those of "." and "..".
FIRST_COOKIE: Final = 3
COOKIE_MAX: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Owner:
    """Who makes a new inode."""

    uid: int
    gid: int


class Namespace:
    """Directory entries, and the inodes they name."""

    def __init__(self, index: Index, counters: Counters, inodes: Inodes) -> None:
        self._index = index
        self._counters = counters
        self._inodes = inodes

    # -- looking

    def lookup(self, folder: InodeNumber, name: bytes) -> InodeNumber:
        """Return the inode of a name; "." and ".." work.

        "." works for what is no directory, too: the kernel asks so for inodes that it has forgotten
        and was given a file handle of (NFS, open_by_handle_at).

        Raises:
            NotFound: no such name.
            NotADirectory: `folder` is none.
        """
        if name in (b".", b".."):
            node = self._inodes.get(folder) if name == b"." else self._directory(folder)
            if not node.nlink:
                raise NotFound(f"inode {folder} was removed")
            return folder if name == b"." else node.parent
        if (dentry := self._find(folder, name)) is None:
            self._directory(folder)
            raise NotFound(f"{os.fsdecode(name)} in {folder}")
        return dentry.inode

    def listing(
        self, folder: InodeNumber, after: int, limit: int, end: int = COOKIE_MAX
    ) -> list[tuple[int, bytes, InodeNumber]]:
        """Return up to `limit` entries behind the cookie `after`: cookie, name, inode."""
        rows = self._index.scan(
            Table.LISTING, pair_key(folder, after + 1), pair_key(folder, end), limit
        )
        lines = ((pair_of(key)[1], Listed.from_bytes(value)) for key, value in rows)
        return [(cookie, line.name, line.inode) for cookie, line in lines]

    def next_cookie(self) -> int:
        """Return the cookie of the next new name, in whatever folder."""
        return max(FIRST_COOKIE, self._counters.get(NEXT_COOKIE))

    def names_of(self, inode: InodeNumber) -> Iterator[tuple[InodeNumber, bytes]]:
        """Yield the folder and name of each of an inode's names."""
        start, stop = triple_key(inode, 0, 0), triple_key(inode + 1, 0, 0)
        for key, _ in self._index.pages(Table.PARENTS, start, stop):
            line = self._index.get(Table.LISTING, key[8:])
            if line is not None:
                yield InodeNumber(int.from_bytes(key[8:16], "big")), Listed.from_bytes(line).name

    def path_of(self, inode: InodeNumber) -> bytes:
        """Return a path of an inode from the root, one of several if it has hard links."""
        parts: list[bytes] = []
        while inode != ROOT and len(parts) < 10_000:
            named = next(self.names_of(inode), None)
            if named is None:
                return b"(inode %d)" % inode
            inode, name = named
            parts.append(name)
        return b"/" + b"/".join(reversed(parts))

    def readlink(self, inode: InodeNumber) -> bytes:
        target = self._index.get(Table.SYMLINKS, number_key(inode))
        if target is None:
            raise InvalidArgument(f"inode {inode} is no symbolic link")
        return target

    # -- making

    def create(
        self, folder: InodeNumber, name: bytes, mode: int, owner: Owner, rdev: int = 0
    ) -> Inode:
        """Make a file, directory or device node, as the type bits of `mode` say.

        Raises:
            AlreadyExists: the name is taken.
            NameTooLong: more than 255 bytes.
            NotFound: the folder was removed.
        """
        parent = self._directory(folder)
        self._check_free(parent, name)
        is_folder = stat.S_ISDIR(mode)
        gid = owner.gid
        if parent.mode & stat.S_ISGID:
            gid = parent.gid
            mode |= stat.S_ISGID if is_folder else 0
        now = time.time_ns()
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
            self._add(folder, name, node.inode)
            self._changed(folder, subfolders=int(is_folder))
        return node

    def symlink(self, folder: InodeNumber, name: bytes, target: bytes, owner: Owner) -> Inode:
        if len(target) > TARGET_MAX:
            raise NameTooLong(f"a link target of {len(target)} bytes")
        with self._index.change():
            node = self.create(folder, name, stat.S_IFLNK | 0o777, owner)
            node = dataclasses.replace(node, size=len(target))
            self._inodes.put(node)
            self._index.put(Table.SYMLINKS, number_key(node.inode), target)
        return node

    def link(self, inode: InodeNumber, folder: InodeNumber, name: bytes) -> None:
        """Give a file one more name.

        Raises:
            NotPermitted: it is a directory.
            NotFound: its last name is gone.
        """
        node = self._inodes.get(inode)
        if stat.S_ISDIR(node.mode):
            raise NotPermitted("a hard link to a directory")
        if not node.nlink:
            raise NotFound(f"inode {inode} was removed")
        if node.nlink >= LINK_MAX:
            raise TooManyLinks(f"inode {inode}")
        self._check_free(self._directory(folder), name)
        with self._index.change():
            self._inodes.touch(node, nlink=node.nlink + 1)
            self._add(folder, name, inode)
            self._changed(folder)

    # -- removing

    def unlink(self, folder: InodeNumber, name: bytes) -> InodeNumber:
        """Remove a name of anything but a directory, and return the inode it named."""
        dentry = self._entry(folder, name)
        node = self._inodes.get(dentry.inode)
        if stat.S_ISDIR(node.mode):
            raise IsADirectory(os.fsdecode(name))
        with self._index.change():
            self._remove(folder, name, dentry)
            self._unlinked(node)
            self._changed(folder)
        return node.inode

    def rmdir(self, folder: InodeNumber, name: bytes) -> InodeNumber:
        """Remove an empty directory, and return its inode."""
        dentry = self._entry(folder, name)
        node = self._directory(dentry.inode)
        if self.listing(node.inode, 0, 1):
            raise DirectoryNotEmpty(os.fsdecode(name))
        with self._index.change():
            self._remove(folder, name, dentry)
            self._unlinked(node)
            self._changed(folder, subfolders=-1)
        return node.inode

    # -- moving

    def rename(
        self,
        old: tuple[InodeNumber, bytes],
        new: tuple[InodeNumber, bytes],
        *,
        replace: bool = True,
    ) -> InodeNumber | None:
        """Move a name. Return the inode that lost its name to it, if there is one.

        Raises:
            AlreadyExists: the new name is taken, and `replace` is not set.
            InvalidArgument: a directory would come to lie below itself.
            IsADirectory, NotADirectory, DirectoryNotEmpty: the new name is taken by what
                the old one cannot replace.
        """
        moved = self._entry(*old)
        target = self._find(*new)
        self._check_name(new[1])
        node = self._inodes.get(moved.inode)
        self._check_not_below(node, new[0])
        if target is None:
            with self._index.change():
                self._remove(*old, moved)
                self._add(*new, moved.inode)
                self._moved(node, old[0], new[0])
            return None
        if not replace:
            raise AlreadyExists(os.fsdecode(new[1]))
        if target.inode == moved.inode:
            return None
        self._replace(node, old, new, moved, target)
        return target.inode

    def exchange(self, one: tuple[InodeNumber, bytes], two: tuple[InodeNumber, bytes]) -> None:
        """Let two names change places, of whatever kind."""
        first, second = self._entry(*one), self._entry(*two)
        first_node, second_node = self._inodes.get(first.inode), self._inodes.get(second.inode)
        self._check_not_below(first_node, two[0])
        self._check_not_below(second_node, one[0])
        with self._index.change():
            self._point(*one, first, second.inode)
            self._point(*two, second, first.inode)
            self._moved(first_node, one[0], two[0])
            self._moved(self._inodes.get(second.inode), two[0], one[0])

    # -- the rows

    def _replace(
        self,
        node: Inode,
        old: tuple[InodeNumber, bytes],
        new: tuple[InodeNumber, bytes],
        moved: Dentry,
        target: Dentry,
    ) -> None:
        victim = self._inodes.get(target.inode)
        self._check_replaceable(node, victim)
        with self._index.change():
            self._remove(*old, moved)
            self._point(*new, target, moved.inode)
            self._unlinked(victim)
            if stat.S_ISDIR(victim.mode):
                self._changed(new[0], subfolders=-1)
            self._moved(self._inodes.get(node.inode), old[0], new[0])

    def _find(self, folder: InodeNumber, name: bytes) -> Dentry | None:
        self._check_name(name)
        value = self._index.get(Table.DENTRIES, named_key(folder, name))
        return None if value is None else Dentry.from_bytes(value)

    def _entry(self, folder: InodeNumber, name: bytes) -> Dentry:
        if (dentry := self._find(folder, name)) is None:
            raise NotFound(f"{os.fsdecode(name)} in {folder}")
        return dentry

    def _directory(self, inode: InodeNumber) -> Inode:
        node = self._inodes.get(inode)
        if not stat.S_ISDIR(node.mode):
            raise NotADirectory(f"inode {inode}")
        return node

    def _add(self, folder: InodeNumber, name: bytes, inode: InodeNumber) -> None:
        cookie = self.next_cookie()
        self._counters.set(NEXT_COOKIE, cookie + 1)
        self._put(folder, name, Dentry(inode, cookie))

    def _put(self, folder: InodeNumber, name: bytes, dentry: Dentry) -> None:
        self._index.put(Table.DENTRIES, named_key(folder, name), dentry.to_bytes())
        line = Listed(dentry.inode, name).to_bytes()
        self._index.put(Table.LISTING, pair_key(folder, dentry.cookie), line)
        self._index.put(Table.PARENTS, triple_key(dentry.inode, folder, dentry.cookie), b"")

    def _remove(self, folder: InodeNumber, name: bytes, dentry: Dentry) -> None:
        self._index.delete(Table.DENTRIES, named_key(folder, name))
        self._index.delete(Table.LISTING, pair_key(folder, dentry.cookie))
        self._index.delete(Table.PARENTS, triple_key(dentry.inode, folder, dentry.cookie))

    def _point(self, folder: InodeNumber, name: bytes, old: Dentry, inode: InodeNumber) -> None:
        # Let an existing name, with its cookie, be that of another inode.
        self._remove(folder, name, old)
        self._put(folder, name, Dentry(inode, old.cookie))

    def _unlinked(self, node: Inode) -> None:
        left = 0 if stat.S_ISDIR(node.mode) else node.nlink - 1
        self._inodes.touch(node, nlink=left, parent=0)
        if not left:
            self._index.put(Table.ORPHANS, number_key(node.inode), b"")

    def _changed(self, folder: InodeNumber, *, subfolders: int = 0) -> None:
        node = self._inodes.get(folder)
        now = time.time_ns()
        self._inodes.touch(node, mtime_ns=now, nlink=node.nlink + subfolders)

    def _moved(self, node: Inode, source: InodeNumber, target: InodeNumber) -> None:
        # Times of all three, and for a directory its parent and the parents' link counts.
        crosses = source != target
        is_folder = stat.S_ISDIR(node.mode)
        self._inodes.touch(node, **({"parent": target} if is_folder else {}))
        self._changed(source, subfolders=-1 if is_folder and crosses else 0)
        if crosses:
            self._changed(target, subfolders=int(is_folder))

    # -- checks

    def _check_name(self, name: bytes) -> None:
        if len(name) > NAME_MAX:
            raise NameTooLong(f"a name of {len(name)} bytes")
        if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
            raise InvalidArgument(f"the name {name!r}")

    def _check_free(self, folder: Inode, name: bytes) -> None:
        if self._find(folder.inode, name) is not None:
            raise AlreadyExists(os.fsdecode(name))
        if not folder.nlink:
            raise NotFound(f"directory {folder.inode} was removed")

    def _check_not_below(self, node: Inode, folder: InodeNumber) -> None:
        target = self._directory(folder)
        if not target.nlink:
            raise NotFound(f"directory {folder} was removed")
        if not stat.S_ISDIR(node.mode):
            return
        seen = 0
        while target.inode != ROOT:
            if target.inode == node.inode:
                raise InvalidArgument("a directory cannot lie below itself")
            target = self._directory(target.parent)
            if (seen := seen + 1) > 100_000:
                raise CorruptIndex(f"directory {folder} does not lead to the root")

    def _check_replaceable(self, node: Inode, victim: Inode) -> None:
        if stat.S_ISDIR(victim.mode):
            if not stat.S_ISDIR(node.mode):
                raise IsADirectory("a directory is in the way")
            if self.listing(victim.inode, 0, 1):
                raise DirectoryNotEmpty("a directory with entries is in the way")
        elif stat.S_ISDIR(node.mode):
            raise NotADirectory("a file is in the way of a directory")
