"""Repair of names: each name has a row in three tables, so two intact rows outweigh a damaged one.

A row of DENTRIES or LISTING gives a name: a directory, the name in it, an inode, and a cookie.
Names in which both tables agree are accepted first, then those with a row in PARENTS, then the
rest. Of two names that cannot both be right, the first is accepted. Inodes without a name then get
one in `/lost+found`. Link counts are corrected later, from the accepted names.

Example. The dentry of `/a` leads to inode 9 instead of 5; its row in LISTING has inode 5::

    listing   /a is inode 5, cookie 7      rank 2: PARENTS has inode 5 in / at cookie 7
    dentry    /a is inode 9, cookie 7      rank 3: PARENTS does not have that
    accepted  /a is inode 5                the name is in use, so the dentry's is not accepted
"""

import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from modelfs.jobs.repair.context import RepairContext
from modelfs.store.files.dentries import rows_of
from modelfs.store.index.name_records import COOKIE_END, FIRST_COOKIE, Dentry
from modelfs.store.index.tables import (
    ROOT,
    InodeNumber,
    Table,
    number_key,
    number_of,
    pair_of,
)

LOST_FOUND: Final = b"lost+found"


@dataclass(frozen=True, slots=True)
class Name:
    """A name of an inode: the directory, the name in it, and the cookie of the listing."""

    folder: InodeNumber
    name: bytes
    inode: InodeNumber
    cookie: int


def repair_names(context: RepairContext) -> None:
    """Make all names agree, lead to inodes, and form one tree with all inodes."""
    accepted = AcceptedNames(context)
    for name in _ranked(context, accepted.folders):
        accepted.add(name)
    accepted.adopt_nameless()
    accepted.break_circles()
    accepted.write()


def adopt(context: RepairContext, inode: InodeNumber) -> bytes:
    """Give an inode without a name one in `/lost+found`, and return its path."""
    accepted = AcceptedNames(context)
    for name in _ranked(context, accepted.folders):
        accepted.add(name)
    path = accepted.adopt(inode)
    accepted.write()
    return path


def _ranked(context: RepairContext, folders: dict[int, int]) -> list[Name]:
    """Return the names that the rows give, the most likely ones first."""
    dentries = {
        (number_of(key), key[8:]): (dentry.inode, dentry.cookie)
        for key, dentry in context.rows(Table.DENTRIES)
    }
    lines = {pair_of(key): (line.inode, line.name) for key, line in context.rows(Table.LISTING)}
    parents = {(inode, *place) for _, (inode, *place) in context.rows(Table.PARENTS)}
    ranked: list[tuple[int, bool, Name]] = []

    def add(folder: int, name: bytes, inode: int, cookie: int, ranks: tuple[int, int]) -> None:
        rank = ranks[0] if (inode, folder, cookie) in parents else ranks[1]
        # Of two names of a directory, the one in the parent that its record has is right.
        elsewhere = folders.get(inode, folder) != folder
        ranked.append(
            (rank, elsewhere, Name(InodeNumber(folder), name, InodeNumber(inode), cookie))
        )

    for (folder, name), (inode, cookie) in dentries.items():
        agreed = lines.get((folder, cookie)) == (inode, name)
        add(folder, name, inode, cookie, (0, 0) if agreed else (1, 3))
    for (folder, cookie), (inode, name) in lines.items():
        if dentries.get((folder, name)) != (inode, cookie):
            add(folder, name, inode, cookie, (2, 4))
    return [name for *_, name in sorted(ranked, key=lambda ranked_name: ranked_name[:2])]


class AcceptedNames:
    """The accepted names."""

    def __init__(self, context: RepairContext) -> None:
        self._context = context
        self._dentries = context.store.dentries
        self._names: dict[tuple[int, bytes], Name] = {}
        self._cookies: dict[int, Name] = {}
        self._first: dict[int, Name] = {}  # the first name of each inode
        self._lost_found: Name | None = None
        self._homeless: set[int] = set()  # inodes with a name in something that is no directory
        self._filled: set[int] = set()  # directories with names in them
        self._inodes: dict[int, tuple[bool, int]] = {}  # whether it is a directory; link count
        self.folders: dict[int, int] = {}  # the parent that each directory's record has
        for _, node in context.rows(Table.INODES):
            is_folder = stat.S_ISDIR(node.mode)
            self._inodes[node.inode] = is_folder, node.nlink
            if is_folder and node.parent:
                self.folders[node.inode] = node.parent

    # -- accepting names

    def add(self, name: Name) -> None:
        """Accept a name, unless a better one is in its place."""
        same_cookie = self._cookies.get(name.cookie)
        if (name.folder, name.name) in self._names:
            return
        if same_cookie is not None and same_cookie.inode == name.inode:
            return  # a row of a name that was accepted, with a damaged folder or name
        if name.inode not in self._inodes or name.inode == ROOT:
            self._context.quarantined(
                f"the name led to inode {name.inode}, which does not exist: removed",
                (self._path(name),),
            )
        elif not self._inodes.get(name.folder, (False, 0))[0]:
            self._homeless.add(name.inode)
        elif self._inodes[name.inode][0] and name.inode in self._first:
            message = f"directory {name.inode} had a second name: removed"
            self._context.repaired(message, (self._path(name),))
        elif same_cookie is not None or not FIRST_COOKIE <= name.cookie < COOKIE_END:
            self._accept(replace(name, cookie=self._new_cookie()))
        else:
            self._accept(name)

    def _new_cookie(self) -> int:
        while (cookie := self._dentries.new_cookie()) in self._cookies:
            pass
        return cookie

    def _accept(self, name: Name) -> None:
        self._names[name.folder, name.name] = name
        self._cookies[name.cookie] = name
        self._first.setdefault(name.inode, name)
        self._filled.add(name.folder)

    def _path(self, name: Name) -> bytes:
        return self._context.path(name.folder).rstrip(b"/") + b"/" + name.name

    # -- inodes without a name

    def adopt_nameless(self) -> None:
        """Give inodes without a name one in `/lost+found`, except orphans."""
        for inode, (is_folder, nlink) in list(self._inodes.items()):
            if inode in self._first or inode == ROOT:
                continue
            if nlink or inode in self._homeless or (is_folder and inode in self._filled):
                path = self.adopt(InodeNumber(inode))
                self._context.repaired(f"inode {inode} had no name", (path,))

    def adopt(self, inode: InodeNumber) -> bytes:
        """Give an inode a name in `/lost+found`, and return its path."""
        if self._lost_found is None:
            self._lost_found = self._find_lost_found()
        folder = self._lost_found
        wanted = _numbered(b"inode-%d" % inode)
        name = next(name for name in wanted if (folder.inode, name) not in self._names)
        self._inodes.setdefault(inode, (False, 1))
        self._accept(Name(folder.inode, name, inode, self._new_cookie()))
        return b"/" + folder.name + b"/" + name

    def _find_lost_found(self) -> Name:
        """Return the name of `/lost+found`, or of a new directory if a lost one has that name."""
        reached = self._reached()
        for name in _numbered(LOST_FOUND):
            present = self._names.get((ROOT, name))
            if present is not None and present.inode in reached:
                return present
            if present is None:
                break
        root = self._context.node(ROOT)
        assert root is not None
        inode = self._context.new_inode()
        node = replace(root, inode=inode, mode=stat.S_IFDIR | 0o700, nlink=2, size=0, parent=ROOT)
        self._context.put_node(node)
        self._inodes[inode] = True, 2
        created = Name(ROOT, name, inode, self._new_cookie())
        self._accept(created)
        return created

    # -- directories

    def break_circles(self) -> None:
        """Move one directory of every circle to `/lost+found`."""
        while circle := self._circle():
            name = self._first.pop(min(circle))
            del self._names[name.folder, name.name], self._cookies[name.cookie]
            path = self.adopt(name.inode)
            self._context.repaired(f"directory {name.inode} was inside itself", (path,))

    def _circle(self) -> list[int]:
        """Return the directories of a circle, none if there is no circle.

        By now every directory has a name, so one that does not lead to the root leads to a circle.
        """
        reached = self._reached()
        for inode, (is_folder, _) in self._inodes.items():
            if is_folder and inode in self._first and inode not in reached:
                branch = [inode]
                while (parent := self._first[branch[-1]].folder) not in branch:
                    branch.append(parent)
                return branch[branch.index(parent) :]
        return []

    def _reached(self) -> set[int]:
        """Return the directories that lead to the root."""
        below: dict[int, list[int]] = {}
        for name in self._first.values():
            if self._inodes[name.inode][0]:
                below.setdefault(name.folder, []).append(name.inode)
        reached, ahead = {int(ROOT)}, [int(ROOT)]
        while ahead:
            folders = below.get(ahead.pop(), [])
            reached.update(folders)
            ahead += folders
        return reached

    # -- the rows

    def write(self) -> None:
        """Write the accepted names to the tables."""
        tables: dict[Table, dict[bytes, bytes]] = {
            Table.DENTRIES: {},
            Table.LISTING: {},
            Table.PARENTS: {},
        }
        for name in self._names.values():
            dentry = Dentry(name.inode, name.cookie)
            for table, (key, value) in rows_of(name.folder, name.name, dentry).items():
                tables[table][key] = value
        orphans = self._inodes.keys() - self._first.keys() - {ROOT}
        tables[Table.ORPHANS] = dict.fromkeys(map(number_key, orphans), b"")
        for table, rows in tables.items():
            if changed := self._context.replace_rows(table, rows):
                self._context.repaired(f"rows of {table.value} corrected: {changed}")


def _numbered(name: bytes) -> Iterator[bytes]:
    yield name
    number = 0
    while True:
        number += 1
        yield b"%s-%d" % (name, number)
