"""Paths of a store: from the top, with "/" between names, as `str` or path objects.

Names that are not UTF-8 are written as `os.fsdecode` writes them. Symbolic links are followed, as
the Hub's cache of models needs it, unless they lead out of the store: the store does not record
where it is mounted.

Example. `models/a/snapshots/1/w.bin` is a link to `../../blobs/5f`. `find` follows it to the file
`models/a/blobs/5f`. A link to `/data/w.bin` raises `NotFound`.
"""

import os
import stat
from collections import deque
from dataclasses import dataclass
from typing import Final

from modelfs.errors import InvalidArgument, NameTooLong, NotADirectory, NotFound
from modelfs.store.index.tables import ROOT, InodeNumber
from modelfs.store.store import Store

StrPath = str | os.PathLike[str]

# Symbolic links in one path, as in the kernel: path_resolution(7).
LINKS_MAX: Final = 40
# Entries of a folder that are listed in one call.
PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """A name of a folder or a regular file."""

    name: str
    inode: InodeNumber
    is_folder: bool


def find(store: Store, path: StrPath, folder: InodeNumber = ROOT) -> InodeNumber:
    """Return the inode at a path from a folder.

    Raises:
        NotFound: no such path, or a link in it leads out of the store or in a circle.
        NotADirectory: a name in the path, except the last, is not that of a folder.
    """
    path = os.fspath(path)
    names = deque(os.fsencode(path).split(b"/"))
    inode, links = folder, 0
    while names:
        name = names.popleft()
        if name in (b"", b"."):
            continue
        if name == b".." and inode == ROOT:
            raise NotFound(f"{path} leads out of the store")
        child = _lookup(store, inode, name, path)
        if not stat.S_ISLNK(store.inodes.get(child).mode):
            inode = child
            continue
        links += 1
        target = store.namespace.readlink(child)
        if links > LINKS_MAX or target.startswith(b"/"):
            why = f"leads to {os.fsdecode(target)}" if links <= LINKS_MAX else "is a circle"
            raise NotFound(f"{path}: the link {os.fsdecode(name)} {why}")
        names.extendleft(reversed(target.split(b"/")))
    return inode


def _lookup(store: Store, folder: InodeNumber, name: bytes, path: str) -> InodeNumber:
    try:
        return store.namespace.lookup(folder, name)
    except NotFound as exc:
        raise NotFound(f"{path} is not in the store") from exc
    except NotADirectory as exc:
        raise NotADirectory(f"{path}: {os.fsdecode(name)} is not in a folder") from exc
    except (NameTooLong, InvalidArgument) as exc:
        raise NotFound(f"{path!r}: no file can have {exc}") from exc


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
    rows = store.namespace.names(folder, start if after is None else after + b"\0", PAGE)
    rows = [(name, inode) for name, inode in rows if name.startswith(start)]
    entries = (_entry(store, folder, name, inode) for name, inode in rows)
    last = rows[-1][0] if len(rows) == PAGE else None
    return [entry for entry in entries if entry is not None], last


def _entry(store: Store, folder: InodeNumber, name: bytes, inode: InodeNumber) -> Entry | None:
    mode = store.inodes.get(inode).mode
    decoded = os.fsdecode(name)
    if stat.S_ISLNK(mode):
        try:
            inode = find(store, decoded, folder)
        except (NotFound, NotADirectory):
            return None
        is_file = stat.S_ISREG(store.inodes.get(inode).mode)
        return Entry(decoded, inode, is_folder=False) if is_file else None
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
        return Entry(decoded, inode, is_folder=stat.S_ISDIR(mode))
    return None
