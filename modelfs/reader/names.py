"""The names in a folder of a store, in pages.

Example. A folder has the files `a` and `c`, the folder `b`, and the link `d` to a file of another
folder. A page has `a`, `b` as a folder, `c`, and `d` as a file. The next page begins behind `d`.
"""

import os
import stat
from dataclasses import dataclass
from typing import Final

from modelfs.errors import NotADirectory, NotFound
from modelfs.store.files.path_lookup import inode_at
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

# Entries of a folder that are listed in one call.
LISTING_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """A name of a folder or a regular file."""

    name: str
    inode: InodeNumber
    is_folder: bool


def page(
    store: Store, folder: InodeNumber, prefix: str, after: bytes | None
) -> tuple[list[Entry], bytes | None]:
    """Return a page of a folder's entries in the order of names.

    A link to a regular file is listed as a file. Other links are left out.

    Args:
        store: at one commit.
        folder: an inode; one that was removed has no entries.
        prefix: of the names.
        after: the last name of the page before; None: the first page.

    Returns:
        The entries, and the last name of the page, None if it is the last page.
    """
    start = os.fsencode(prefix)
    rows = store.dentries.names(folder, start if after is None else after + b"\0", LISTING_PAGE)
    rows = [(name, inode) for name, inode in rows if name.startswith(start)]
    entries = (_entry(store, folder, name, inode) for name, inode in rows)
    last = rows[-1][0] if len(rows) == LISTING_PAGE else None
    return [entry for entry in entries if entry is not None], last


def _entry(store: Store, folder: InodeNumber, name: bytes, inode: InodeNumber) -> Entry | None:
    mode = store.inodes.get(inode).mode
    decoded = os.fsdecode(name)
    if stat.S_ISLNK(mode):
        try:
            inode = inode_at(store.namespace, store.inodes, decoded, folder)
        except (NotFound, NotADirectory):
            return None
        is_file = stat.S_ISREG(store.inodes.get(inode).mode)
        return Entry(decoded, inode, is_folder=False) if is_file else None
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        return Entry(decoded, inode, is_folder=stat.S_ISDIR(mode))
    return None
