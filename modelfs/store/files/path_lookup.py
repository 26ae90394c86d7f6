"""Paths in a store: from its top or a folder, with "/" between names.

Names that are not UTF-8 are written as `os.fsdecode` writes them. Symbolic links are followed, as
the Hub's cache of models needs it, unless they lead out of the store: the store does not record
where it is mounted.

Example. `models/a/snapshots/1/w.bin` is a link to `../../blobs/5f`. `inode_at` follows it to the
file `models/a/blobs/5f`. A link to `/data/w.bin` raises `NotFound`.
"""

import os
import stat
from collections import deque
from typing import Final

from modelfs.errors import InvalidArgument, NameTooLong, NotADirectory, NotFound
from modelfs.store.files.inodes import Inodes
from modelfs.store.files.namespace import Namespace
from modelfs.store.index.tables import ROOT, InodeNumber

StrPath = str | os.PathLike[str]

# Symbolic links in one path, as in the kernel: path_resolution(7).
LINKS_MAX: Final = 40


def text_of(path: StrPath) -> str:
    """Return a path as text.

    Raises:
        TypeError: it is something else than a str or a path object, or a path of bytes.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"a path is a str or a path object, not {type(text).__name__}")
    return text


def inode_at(
    namespace: Namespace, inodes: Inodes, path: StrPath, folder: InodeNumber = ROOT
) -> InodeNumber:
    """Return the inode at a path from a folder. Any thread; at one commit, if the caller pins one.

    Raises:
        NotFound: no such path, or a link in it leads out of the store or in a circle.
        NotADirectory: a name in the path, except the last, is not that of a folder.
    """
    path = os.fspath(path)
    names = deque(os.fsencode(path).split(b"/"))
    inode, links = folder, 0
    parent = b"/"  # the name that led to `inode`
    while names:
        name = names.popleft()
        if name in (b"", b"."):
            continue
        if name == b".." and inode == ROOT:
            raise NotFound(f"{path} leads out of the store")
        child = _lookup(namespace, inode, parent, name, path)
        if not stat.S_ISLNK(inodes.get(child).mode):
            inode, parent = child, name
            continue
        links += 1
        target = namespace.readlink(child)
        if links > LINKS_MAX:
            raise NotFound(f"{path}: the link {os.fsdecode(name)} is a circle")
        if target.startswith(b"/"):
            raise NotFound(f"{path}: the link {os.fsdecode(name)} leads to {os.fsdecode(target)}")
        names.extendleft(reversed(target.split(b"/")))
    return inode


def _lookup(
    namespace: Namespace, folder: InodeNumber, parent: bytes, name: bytes, path: str
) -> InodeNumber:
    try:
        return namespace.lookup(folder, name)
    except NotFound as exc:
        raise NotFound(f"{path} is not in the store") from exc
    except NotADirectory as exc:
        raise NotADirectory(f"{path}: {os.fsdecode(parent)} is not a folder") from exc
    except (NameTooLong, InvalidArgument) as exc:
        raise NotFound(f"{path!r} is not in the store: {exc}") from exc
