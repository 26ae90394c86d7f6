"""Invariants of the namespace: every inode has its names, and all names form one tree."""

import os
import stat
from collections.abc import Iterator

from modelfs.jobs.check.findings import Finding
from modelfs.jobs.check.reported import Reported
from modelfs.jobs.check.view import CheckView
from modelfs.store.index.counters import NEXT_COOKIE
from modelfs.store.index.decoders import decode_mark, decode_parent, decode_symlink
from modelfs.store.index.name_records import FIRST_COOKIE, Dentry, Listed
from modelfs.store.index.records import Inode
from modelfs.store.index.tables import (
    KEY_MAX,
    ROOT,
    Table,
    named_key,
    number_key,
    number_of,
    pair_key,
    pair_of,
    triple_key,
)


def names_agree(view: CheckView, _: Reported) -> Iterator[Finding | Reported]:
    """The three rows of a name agree."""
    wrong: set[bytes] = set()  # keys of the listing
    for key, dentry in view.rows(Table.DENTRIES, Dentry.from_row):
        folder, name = number_of(key), key[8:]
        if (problem := _disagreement(view, folder, name, dentry)) is not None:
            wrong.add(pair_key(folder, dentry.cookie))
            yield Reported(misnamed=frozenset([dentry.inode]))
            yield _name_finding(view, folder, name, problem)
    for key, listed in view.rows(Table.LISTING, Listed.from_row):
        folder, cookie = pair_of(key)
        dentry_key = named_key(folder, listed.name)
        dentry = Dentry(listed.inode, cookie)
        if key not in wrong and _differs(view, Table.DENTRIES, dentry_key, dentry.to_bytes()):
            wrong.add(key)
            yield Reported(misnamed=frozenset([listed.inode]))
            problem = f"the listing has it at cookie {cookie}, look-ups do not find it"
            yield _name_finding(view, folder, listed.name, problem)
    for key, (inode, folder, cookie) in view.rows(Table.PARENTS, decode_parent):
        listing_key = key[8:]
        value = view.get(Table.LISTING, listing_key)
        # The row begins with its inode.
        is_listed = value is not None and int.from_bytes(value[:8], "little") == inode
        is_broken = listing_key in view.broken[Table.LISTING]
        if listing_key not in wrong and not is_listed and not is_broken:
            yield Reported(misnamed=frozenset([inode]))
            message = f"inode {inode} has a name in directory {folder}, which does not list it"
            yield Finding("names-agree", f"{message} at cookie {cookie}", (view.path(inode),))


def _disagreement(view: CheckView, folder: int, name: bytes, dentry: Dentry) -> str | None:
    """Return how the other two rows of a name differ from its dentry, None if they agree."""
    line = Listed(dentry.inode, name).to_bytes()
    if _differs(view, Table.LISTING, pair_key(folder, dentry.cookie), line):
        return f"the listing does not have it at cookie {dentry.cookie}"
    if not view.has(Table.PARENTS, triple_key(dentry.inode, folder, dentry.cookie)):
        return f"inode {dentry.inode} does not have that name"
    return None


def _differs(view: CheckView, table: Table, key: bytes, wanted: bytes) -> bool:
    """Return whether a row is missing or has another value; a broken row is reported already."""
    return key not in view.broken[table] and view.index.get(table, key) != wanted


def _name_finding(view: CheckView, folder: int, name: bytes, problem: str) -> Finding:
    path = _join(view, folder, name)
    return Finding("names-agree", f"{os.fsdecode(path)}: {problem}", (path,))


def _join(view: CheckView, folder: int, name: bytes) -> bytes:
    return view.path(folder).rstrip(b"/") + b"/" + name


def names_lead_somewhere(view: CheckView, _: Reported) -> Iterator[Finding | Reported]:
    """A name's inode exists, and so does the directory it is in."""
    for key, dentry in view.rows(Table.DENTRIES, Dentry.from_row):
        folder = number_of(key)
        node = view.inode(folder)
        is_folder = node is not None and stat.S_ISDIR(node.mode) and node.nlink > 0
        if not view.has(Table.INODES, number_key(dentry.inode)):
            path = _join(view, folder, key[8:])
            message = f"{os.fsdecode(path)}: inode {dentry.inode} does not exist"
            yield Finding("name-inode", message, (path,))
        elif not is_folder and number_key(folder) not in view.broken[Table.INODES]:
            yield Reported(misnamed=frozenset([dentry.inode]))
            path = _join(view, folder, key[8:])
            message = f"{os.fsdecode(path)}: inode {folder} is no directory, or a removed one"
            yield Finding("name-folder", message, (path,))


def cookies_are_unique(view: CheckView, _: Reported) -> Iterator[Finding]:
    """A cookie is used once, and is below the counter of cookies."""
    readable = NEXT_COOKIE not in view.broken[Table.META]
    following = max(FIRST_COOKIE, view.store.counters.get(NEXT_COOKIE)) if readable else KEY_MAX
    seen: set[int] = set()
    for key, listed in view.rows(Table.LISTING, Listed.from_row):
        folder, cookie = pair_of(key)
        problem = None
        if cookie in seen:
            problem = "is used twice"
        elif not FIRST_COOKIE <= cookie < following:
            problem = f"was never allocated: the next is {following}"
        if problem is not None:
            path = _join(view, folder, listed.name)
            yield Finding("cookie", f"{os.fsdecode(path)}: cookie {cookie} {problem}", (path,))
        seen.add(cookie)


def link_counts_are_right(view: CheckView, reported: Reported) -> Iterator[Finding]:
    """A link count is the number of names, for a directory 2 and its subdirectories."""
    subfolders: dict[int, int] = {}
    for node in view.inodes():
        if stat.S_ISDIR(node.mode) and node.nlink and node.inode != ROOT:
            subfolders[node.parent] = subfolders.get(node.parent, 0) + 1
    parents_of_broken = _parents_of_broken(view)
    names = _NameCounter(view)
    for node in view.inodes():
        count = names.of(node.inode)
        if node.inode in reported.misnamed:
            continue
        if count == 0 and node.nlink and node.inode != ROOT:
            message = f"inode {node.inode} has no name and is no orphan"
            yield Finding("nameless", message, (view.path(node.inode),))
        elif not stat.S_ISDIR(node.mode) or not node.nlink:
            if node.nlink != count:
                yield _link_finding(view, node, count)
        elif node.inode not in parents_of_broken and node.nlink != (
            wanted := 2 + subfolders.get(node.inode, 0)
        ):
            yield _link_finding(view, node, wanted)


def _link_finding(view: CheckView, node: Inode, wanted: int) -> Finding:
    message = f"inode {node.inode} has link count {node.nlink} instead of {wanted}"
    return Finding("link-count", message, (view.path(node.inode),))


def _parents_of_broken(view: CheckView) -> set[int]:
    """Return the directories of inodes that do not decode: each may be one more subdirectory."""
    folders: set[int] = set()
    for inode in map(number_of, view.broken[Table.INODES]):
        rows = view.pages(
            Table.PARENTS, triple_key(inode, 0, 0), triple_key(inode, KEY_MAX, KEY_MAX)
        )
        folders.update(number_of(key[8:]) for key, _ in rows)
    return folders


class _NameCounter:
    """Counts the names of each inode, in step with a walk over the inodes: both are in order."""

    def __init__(self, view: CheckView) -> None:
        self._rows = view.rows(Table.PARENTS, decode_parent)
        self._next = next(self._rows, None)

    def of(self, inode: int) -> int:
        count = 0
        while self._next is not None and self._next[1][0] <= inode:
            count += self._next[1][0] == inode
            self._next = next(self._rows, None)
        return count


def directories_form_a_tree(view: CheckView, reported: Reported) -> Iterator[Finding]:
    """Every directory has one name, in its parent, and its parents lead to the root."""
    parents: dict[int, int] = {}
    for node in view.inodes():
        if not stat.S_ISDIR(node.mode) or not node.nlink:
            if node.parent:
                message = f"inode {node.inode} has parent {node.parent}, but is in no tree"
                yield Finding("parent", message, (view.path(node.inode),))
            continue
        parents[node.inode] = node.parent
        if node.inode not in reported.misnamed and not _lies_in(view, node.inode, node.parent):
            message = f"directory {node.inode} does not lie in {node.parent} alone"
            yield Finding("parent", message, (view.path(node.inode),))
    if ROOT not in parents and number_key(ROOT) not in view.broken[Table.INODES]:
        yield Finding("tree", "there is no root directory")
        return
    for inode, end in _dead_ends(parents):
        is_reported = inode in reported.misnamed or number_key(end) in view.broken[Table.INODES]
        if end in parents or not is_reported:
            message = f"directory {inode} does not lead to the root"
            yield Finding("tree", message, (view.path(inode),))


def _lies_in(view: CheckView, inode: int, parent: int) -> bool:
    """Return whether a directory has its name, if it has one, in its parent."""
    rows = view.pages(Table.PARENTS, triple_key(inode, 0, 0), triple_key(inode + 1, 0, 0))
    folders = [number_of(key[8:]) for key, _ in rows]
    if inode == ROOT:
        return parent == ROOT and not folders
    return folders in ([parent], [])  # a directory without a name is a finding of its own


def _dead_ends(parents: dict[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the last directory of each branch that does not end in the root, and its parent.

    The parent is a directory of the branch itself, or no directory.
    """
    seen: set[int] = {ROOT}
    for start in parents:
        branch: dict[int, None] = {}
        last = at = start
        while at in parents and at not in seen and at not in branch:
            branch[at] = None
            last, at = at, parents[at]
        if at not in seen:
            yield last, at
        seen.update(branch)


def orphans_have_rows(view: CheckView, _: Reported) -> Iterator[Finding]:
    """An inode without a link is listed as an orphan, and no other is."""
    for node in view.inodes():
        listed = view.has(Table.ORPHANS, number_key(node.inode))
        if listed and node.nlink:
            message = f"inode {node.inode} is to be removed, but has {node.nlink} links"
            yield Finding("orphan", message, (view.path(node.inode),))
        elif not listed and not node.nlink:
            message = f"inode {node.inode} has no link and would never be removed"
            yield Finding("orphan", message, (view.path(node.inode),))
    for key, inode in view.rows(Table.ORPHANS, decode_mark):
        if not view.has(Table.INODES, key):
            yield Finding("orphan", f"inode {inode} is to be removed, but does not exist")


def symlinks_have_targets(view: CheckView, _: Reported) -> Iterator[Finding]:
    """A symbolic link has a target of its size, and nothing else has one."""
    for node in view.inodes():
        if stat.S_ISLNK(node.mode):
            target = view.get(Table.SYMLINKS, number_key(node.inode))
            if target is None or len(target) != node.size:
                length = "no target" if target is None else f"a target of {len(target)} bytes"
                message = f"symbolic link {node.inode} has {length} instead of {node.size}"
                yield Finding("symlink", message, (view.path(node.inode),))
    for key, _target in view.rows(Table.SYMLINKS, decode_symlink):
        owner = view.inode(number_of(key))
        broken = key in view.broken[Table.INODES]
        if not broken and (owner is None or not stat.S_ISLNK(owner.mode)):
            message = f"inode {number_of(key)} has a link target, but is no symbolic link"
            yield Finding("symlink", message, (view.path(number_of(key)),))
