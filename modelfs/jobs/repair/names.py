"""Repair of names: three tables say the same of each, and so tell which of them is damaged.

Every row speaks for a name, that is a folder, what it is called there, an inode, and a cookie.
Those that look-ups and listings agree on are taken first, then those that the inode knows of, then
the rest; of two that cannot both be right, the first. What has no name then goes to `/lost+found`.
Link counts are not looked at here, but counted when everything else is right.
"""

import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from modelfs.jobs.repair.context import RepairContext
from modelfs.store.index.counters import NEXT_COOKIE
from modelfs.store.index.records import COOKIE_END, FIRST_COOKIE, Dentry, Listed
from modelfs.store.index.tables import (
    ROOT,
    InodeNumber,
    Table,
    named_key,
    number_key,
    number_of,
    pair_key,
    pair_of,
    triple_key,
)

LOST_FOUND: Final = b"lost+found"


@dataclass(frozen=True, slots=True)
class Name:
    """Where an inode is to be found, and under what name."""

    folder: InodeNumber
    name: bytes
    inode: InodeNumber
    cookie: int


def repair_names(context: RepairContext) -> None:
    """Let all names agree, lead somewhere, and form a tree that everything is in."""
    tree = Tree(context)
    for name in _ranked(context, tree.folders):
        tree.add(name)
    tree.adopt_nameless()
    tree.break_circles()
    tree.write()


def adopt(context: RepairContext, inode: InodeNumber) -> bytes:
    """Put an inode that has no name into `/lost+found`, and return its path."""
    tree = Tree(context)
    for name in _ranked(context, tree.folders):
        tree.add(name)
    path = tree.adopt(inode)
    tree.write()
    return path


def _ranked(context: RepairContext, folders: dict[int, int]) -> list[Name]:
    """Return what every row says, that which is most likely right first."""
    dentries = {
        (number_of(key), key[8:]): (dentry.inode, dentry.cookie)
        for key, dentry in context.rows(Table.DENTRIES)
    }
    lines = {pair_of(key): (line.inode, line.name) for key, line in context.rows(Table.LISTING)}
    known = {(inode, *place) for _, (inode, *place) in context.rows(Table.PARENTS)}
    ranked: list[tuple[int, bool, Name]] = []

    def rank(folder: int, name: bytes, inode: int, cookie: int, ranks: tuple[int, int]) -> None:
        place = ranks[0] if (inode, folder, cookie) in known else ranks[1]
        # Of two names of a directory, its record says which is right.
        strange = folders.get(inode, folder) != folder
        found = Name(InodeNumber(folder), name, InodeNumber(inode), cookie)
        ranked.append((place, strange, found))

    for (folder, name), (inode, cookie) in dentries.items():
        agreed = lines.get((folder, cookie)) == (inode, name)
        rank(folder, name, inode, cookie, (0, 0) if agreed else (1, 3))
    for (folder, cookie), (inode, name) in lines.items():
        if dentries.get((folder, name)) != (inode, cookie):
            rank(folder, name, inode, cookie, (2, 4))
    return [name for *_, name in sorted(ranked, key=lambda each: each[:2])]


class Tree:
    """The names that are taken for right."""

    def __init__(self, context: RepairContext) -> None:
        self._context = context
        self._names: dict[tuple[int, bytes], Name] = {}
        self._cookies: dict[int, Name] = {}
        self._first: dict[int, Name] = {}  # of each inode, one of its names
        self._home: Name | None = None  # of what has no name
        self._homeless: set[int] = set()  # they had a name that nothing can hold
        self._filled: set[int] = set()
        self._inodes: dict[int, tuple[bool, int]] = {}  # is it a directory, and its link count
        self.folders: dict[int, int] = {}  # where each directory is, as its record says
        for _, node in context.rows(Table.INODES):
            is_folder = stat.S_ISDIR(node.mode)
            self._inodes[node.inode] = is_folder, node.nlink
            if is_folder and node.parent:
                self.folders[node.inode] = node.parent

    # -- taking names

    def add(self, name: Name) -> None:
        """Take a name, unless a better one is in its place."""
        key = (name.folder, name.name)
        if key in self._names or self._is_twin(name):
            return
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
        else:
            self._take(self._with_own_cookie(name))

    def _is_twin(self, name: Name) -> bool:
        # Another row of a name that was taken, with something damaged in it.
        other = self._cookies.get(name.cookie)
        return other is not None and other.inode == name.inode

    def _with_own_cookie(self, name: Name) -> Name:
        if name.cookie not in self._cookies and FIRST_COOKIE <= name.cookie < COOKIE_END:
            return name
        return replace(name, cookie=self._new_cookie())

    def _new_cookie(self) -> int:
        counters = self._context.store.counters
        cookie = max(FIRST_COOKIE, counters.get(NEXT_COOKIE))
        while cookie in self._cookies:
            cookie += 1
        counters.set(NEXT_COOKIE, cookie + 1)
        return cookie

    def _take(self, name: Name) -> None:
        self._names[name.folder, name.name] = name
        self._cookies[name.cookie] = name
        self._first.setdefault(name.inode, name)
        self._filled.add(name.folder)

    def _path(self, name: Name) -> bytes:
        return self._context.path(name.folder).rstrip(b"/") + b"/" + name.name

    # -- what has no name

    def adopt_nameless(self) -> None:
        """Put into `/lost+found` what has no name, unless it was removed."""
        for inode, (is_folder, nlink) in list(self._inodes.items()):
            if inode in self._first or inode == ROOT:
                continue
            if nlink or inode in self._homeless or (is_folder and inode in self._filled):
                path = self.adopt(InodeNumber(inode))
                self._context.repaired(f"inode {inode} had no name", (path,))

    def adopt(self, inode: InodeNumber) -> bytes:
        """Give an inode a name in `/lost+found`, and return its path."""
        folder = self._lost_found()
        name = self._free(folder.inode, b"inode-%d" % inode)
        self._inodes.setdefault(inode, (False, 1))
        self._take(Name(folder.inode, name, inode, self._new_cookie()))
        return b"/" + folder.name + b"/" + name

    def _lost_found(self) -> Name:
        if self._home is None:
            reached = self._reached()
            for name in _numbered(LOST_FOUND):
                found = self._names.get((ROOT, name))
                if found is None or found.inode in reached:
                    break
            self._home = found or self._make_lost_found(name)
        return self._home

    def _make_lost_found(self, name: bytes) -> Name:
        root = self._context.node(ROOT)
        assert root is not None
        inode = self._context.new_inode()
        node = replace(root, inode=inode, mode=stat.S_IFDIR | 0o700, nlink=2, size=0, parent=ROOT)
        self._context.put_node(node)
        self._inodes[inode] = True, 2
        found = Name(ROOT, name, inode, self._new_cookie())
        self._take(found)
        return found

    def _free(self, folder: int, wanted: bytes) -> bytes:
        return next(name for name in _numbered(wanted) if (folder, name) not in self._names)

    # -- directories

    def break_circles(self) -> None:
        """Cut every circle of directories once, and put that end into `/lost+found`."""
        while circle := self._circle():
            name = self._first.pop(min(circle))
            del self._names[name.folder, name.name], self._cookies[name.cookie]
            path = self.adopt(name.inode)
            self._context.repaired(f"directory {name.inode} was below itself", (path,))

    def _circle(self) -> list[int]:
        # Every directory has a name by now, so what does not lead to the root leads to itself.
        reached = self._reached()
        for inode, (is_folder, _) in self._inodes.items():
            if is_folder and inode in self._first and inode not in reached:
                branch = self._branch(inode)
                return branch[branch.index(self._first[branch[-1]].folder) :]
        return []

    def _branch(self, inode: int) -> list[int]:
        branch = [inode]
        while (above := self._first[branch[-1]].folder) not in branch:
            branch.append(above)
        return branch

    def _reached(self) -> set[int]:
        below: dict[int, list[int]] = {}
        for name in self._first.values():
            if self._inodes[name.inode][0]:
                below.setdefault(name.folder, []).append(name.inode)
        reached, ahead = {int(ROOT)}, [int(ROOT)]
        while ahead:
            found = below.get(ahead.pop(), [])
            reached.update(found)
            ahead += found
        return reached

    # -- the rows

    def write(self) -> None:
        """Let the tables have the names that were taken."""
        names = self._names.values()
        for table, wanted in (
            (Table.DENTRIES, {_dentry_key(each): _dentry(each) for each in names}),
            (Table.LISTING, {_line_key(each): _line(each) for each in names}),
            (Table.PARENTS, {_parent_key(each): b"" for each in names}),
            (Table.ORPHANS, dict.fromkeys(self._orphans(), b"")),
        ):
            if changed := self._context.settle(table, wanted):
                self._context.repaired(f"rows of {table.value} that were not right: {changed}")

    def _orphans(self) -> Iterator[bytes]:
        nameless: Iterable[int] = self._inodes.keys() - self._first.keys() - {ROOT}
        return map(number_key, nameless)


def _numbered(name: bytes) -> Iterator[bytes]:
    yield name
    number = 0
    while True:
        number += 1
        yield b"%s-%d" % (name, number)


def _dentry_key(name: Name) -> bytes:
    return named_key(name.folder, name.name)


def _dentry(name: Name) -> bytes:
    return Dentry(name.inode, name.cookie).to_bytes()


def _line_key(name: Name) -> bytes:
    return pair_key(name.folder, name.cookie)


def _line(name: Name) -> bytes:
    return Listed(name.inode, name.name).to_bytes()


def _parent_key(name: Name) -> bytes:
    return triple_key(name.inode, name.folder, name.cookie)
