"""The three rows of a name.

Theory of operation. A name has three rows: the *dentry* (folder, name) for look-ups, the *line*
(folder, cookie) for listings, and the *link* (inode, folder, cookie) to find the names of an inode.
They are only changed together. Each cookie is used once in a store. So a listing that stopped at a
cookie goes on behind it, whichever names were added and removed meanwhile. A name that is pointed
to another inode keeps its cookie, and is listed once.

Example. The name "a" in folder 1 is inode 5 with cookie 8. It is added, pointed to inode 6, and
removed::

    add      dentry 1, "a": 5, 8    line 1, 8: 5, "a"    link 5, 1, 8
    point    dentry 1, "a": 6, 8    line 1, 8: 6, "a"    link 6, 1, 8
    remove   none                   none                 none
"""

import os
from collections.abc import Iterator
from typing import Final

from modelfs.errors import CorruptIndex, InvalidArgument, NameTooLong, NotFound
from modelfs.store.index.counters import NEXT_COOKIE, Counters
from modelfs.store.index.index import Index
from modelfs.store.index.name_records import FIRST_COOKIE, NAME_MAX, Dentry, Listed, is_name
from modelfs.store.index.tables import (
    InodeNumber,
    Table,
    named_key,
    pair_key,
    pair_of,
    triple_key,
)

COOKIE_MAX: Final = (1 << 63) - 1


def rows_of(folder: InodeNumber, name: bytes, dentry: Dentry) -> dict[Table, tuple[bytes, bytes]]:
    """Return the key and value of a name's row in each of the three tables."""
    inode, cookie = dentry.inode, dentry.cookie
    return {
        Table.DENTRIES: (named_key(folder, name), dentry.to_bytes()),
        Table.LISTING: (pair_key(folder, cookie), Listed(inode, name).to_bytes()),
        Table.PARENTS: (triple_key(inode, folder, cookie), b""),
    }


class Dentries:
    """The names in all folders. Any thread may read; only the owner changes.

    Each call that changes is made inside a change of the index.
    """

    def __init__(self, index: Index, counters: Counters) -> None:
        self._index = index
        self._counters = counters

    # -- reading

    def find(self, folder: InodeNumber, name: bytes) -> Dentry | None:
        """Return the inode and cookie of a name, None if there is no such name.

        Raises:
            NameTooLong: the name has more than 255 bytes.
            InvalidArgument: the name is empty, "." or "..", or contains "/" or NUL.
        """
        if len(name) > NAME_MAX:
            raise NameTooLong(f"a name of {len(name)} bytes")
        if not is_name(name):
            raise InvalidArgument(f"invalid name: {name!r}")
        value = self._index.get(Table.DENTRIES, named_key(folder, name))
        return None if value is None else Dentry.from_bytes(value)

    def entry(self, folder: InodeNumber, name: bytes) -> Dentry:
        """Return the inode and cookie of a name.

        Raises:
            NotFound: the name does not exist.
            NameTooLong, InvalidArgument: as `find`.
        """
        if (dentry := self.find(folder, name)) is None:
            raise NotFound(f"{os.fsdecode(name)} does not exist in directory {folder}")
        return dentry

    def listing(
        self, folder: InodeNumber, after: int, limit: int, end: int = COOKIE_MAX
    ) -> list[tuple[int, bytes, InodeNumber]]:
        """Return up to `limit` entries behind the cookie `after`: cookie, name, inode.

        Entries with cookies from `end` on are left out.
        """
        rows = self._index.scan(
            Table.LISTING, pair_key(folder, after + 1), pair_key(folder, end), limit
        )
        lines = ((pair_of(key)[1], Listed.from_bytes(value)) for key, value in rows)
        return [(cookie, line.name, line.inode) for cookie, line in lines]

    def names(
        self, folder: InodeNumber, start: bytes, limit: int
    ) -> list[tuple[bytes, InodeNumber]]:
        """Return up to `limit` entries from a name on, in the order of names: name, inode."""
        rows = self._index.scan(
            Table.DENTRIES, named_key(folder, start), named_key(folder + 1, b""), limit
        )
        return [(key[8:], Dentry.from_bytes(value).inode) for key, value in rows]

    def is_empty(self, folder: InodeNumber) -> bool:
        """Whether a folder has no names, neither dentries nor lines: one may have been lost."""
        return not self.listing(folder, 0, 1) and not self.names(folder, b"", 1)

    def names_of(self, inode: InodeNumber) -> Iterator[tuple[InodeNumber, bytes]]:
        """Yield the folder and name of each of an inode's names, except those in damaged rows."""
        start, stop = triple_key(inode, 0, 0), triple_key(inode + 1, 0, 0)
        for key, _ in self._index.pages(Table.PARENTS, start, stop, damaged=set()):
            try:
                line = self._index.get(Table.LISTING, key[8:])
                name = None if line is None else Listed.from_bytes(line).name
            except CorruptIndex:
                continue
            if name is not None:
                yield InodeNumber(int.from_bytes(key[8:16], "big")), name

    def next_cookie(self) -> int:
        """Return the cookie of the next new name in any folder."""
        return max(FIRST_COOKIE, self._counters.get(NEXT_COOKIE))

    # -- changing

    def new_cookie(self) -> int:
        """Allocate a cookie. No cookie is used twice."""
        cookie = self.next_cookie()
        self._counters.set(NEXT_COOKIE, cookie + 1)
        return cookie

    def add(self, folder: InodeNumber, name: bytes, inode: InodeNumber) -> None:
        """Add a name that does not exist."""
        self.put(folder, name, Dentry(inode, self.new_cookie()))

    def put(self, folder: InodeNumber, name: bytes, dentry: Dentry) -> None:
        """Write the rows of a name that does not exist, with a cookie of its own."""
        for table, (key, value) in rows_of(folder, name, dentry).items():
            self._index.put(table, key, value)

    def remove(self, folder: InodeNumber, name: bytes, dentry: Dentry) -> None:
        """Remove a name with the inode and cookie that it has."""
        for table, (key, _) in rows_of(folder, name, dentry).items():
            self._index.delete(table, key)

    def point(self, folder: InodeNumber, name: bytes, old: Dentry, inode: InodeNumber) -> None:
        """Point an existing name to another inode; its cookie stays."""
        self.remove(folder, name, old)
        self.put(folder, name, Dentry(inode, old.cookie))
