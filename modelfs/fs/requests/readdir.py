"""What a directory lists, while names come and go.

Each name has a cookie that is never used twice in a store, and so a listing goes on behind the one
that it came to, whatever has changed. "." and ".." have the two cookies below all of them.
"""

import logging
import os
from collections.abc import Iterator
from typing import Final

from pyfuse3 import EntryAttributes

from modelfs.errors import CorruptIndex, NotFound
from modelfs.fs.handles import Handle
from modelfs.fs.requests.attributes import entry_of
from modelfs.store.files.namespace import Namespace
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

log = logging.getLogger(__name__)

READDIR_PAGE: Final = 64
DOT_COOKIE: Final = 1
DOT_DOT_COOKIE: Final = 2


def entries(
    store: Store, handle: Handle, after: int
) -> Iterator[tuple[int, bytes, EntryAttributes, InodeNumber | None]]:
    """Yield what an open directory lists after the cookie `after`.

    Yields:
        Cookie, name and attributes of each entry, and the inode if the kernel will count it.
    """
    if not after or not handle.listed_to:
        handle.listed_to, handle.may_go_on = store.namespace.next_cookie(), True
    folder = handle.inode
    if not store.inodes.get(folder).nlink:
        return  # removed while it was open
    for cookie, name in ((DOT_COOKIE, b"."), (DOT_DOT_COOKIE, b"..")):
        if after < cookie:
            node = store.inodes.get(store.namespace.lookup(folder, name))
            yield cookie, name, entry_of(node), None
    for cookie, name, inode in _names(store.namespace, handle, max(after, DOT_DOT_COOKIE)):
        try:
            entry = entry_of(store.contents.node(inode))
        except (NotFound, CorruptIndex) as exc:
            # One damaged entry must not hide all others, nor keep them from removal.
            log.error("%s is not listed: %s", os.fsdecode(name), exc)
        else:
            yield cookie, name, entry, inode


def _names(
    namespace: Namespace, handle: Handle, after: int
) -> Iterator[tuple[int, bytes, InodeNumber]]:
    # A file that gets another name gets it at the end. It must be found there if it had not
    # been listed before; but who renames each name that is listed must come to an end.
    while True:
        while page := namespace.listing(handle.inode, after, READDIR_PAGE, handle.listed_to):
            yield from page
            after = page[-1][0]
        if not handle.may_go_on:
            return
        handle.listed_to, handle.may_go_on = namespace.next_cookie(), False
