"""The listing of a directory whose names may change while it is read.

Each name has a cookie, a number that is never used twice in a store. A listing continues behind the
last cookie that it returned, whatever names were added or removed. "." and ".." have the two
cookies below all others.

Example. A directory has the names a (cookie 11), b (12) and c (13). The kernel reads up to b, which
is then renamed to d (14), and it continues behind cookie 12: it gets c and d. A second rename
during this listing, to a cookie of 15 or more, is not followed.
"""

import logging
import os
from collections.abc import Iterator
from typing import Final

from pyfuse3 import EntryAttributes

from modelfs.errors import CorruptIndex, NotFound
from modelfs.fs.handles import Handle
from modelfs.fs.requests.attributes import attributes_of, entry_of
from modelfs.store.files.dentries import Dentries
from modelfs.store.index.tables import InodeNumber
from modelfs.store.store import Store

log = logging.getLogger(__name__)

READDIR_PAGE: Final = 64
DOT_COOKIE: Final = 1
DOT_DOT_COOKIE: Final = 2


def entries(
    store: Store, handle: Handle, after: int
) -> Iterator[tuple[int, bytes, EntryAttributes, InodeNumber | None]]:
    """Yield the entries of an open directory behind the cookie `after`.

    Yields:
        Cookie, name and attributes of each entry, and the inode if the kernel counts a lookup of
        it.
    """
    if not after or not handle.listing_end:
        handle.listing_end, handle.may_extend = store.dentries.next_cookie(), True
    folder = handle.inode
    if not store.inodes.get(folder).nlink:
        return  # removed while it was open
    for cookie, name in ((DOT_COOKIE, b"."), (DOT_DOT_COOKIE, b"..")):
        if after < cookie:
            node = store.inodes.get(store.namespace.lookup(folder, name))
            yield cookie, name, entry_of(node, node.size), None
    for cookie, name, inode in _names(store.dentries, handle, max(after, DOT_DOT_COOKIE)):
        try:
            entry = attributes_of(store.contents, inode)
        except (NotFound, CorruptIndex) as exc:
            # One damaged entry must not hide all others, nor keep them from being removed.
            log.error("directory entry %s is damaged and not listed: %s", os.fsdecode(name), exc)
        else:
            yield cookie, name, entry, inode


def _names(
    dentries: Dentries, handle: Handle, after: int
) -> Iterator[tuple[int, bytes, InodeNumber]]:
    """Yield cookie, name and inode of each name behind a cookie, in the order of the cookies.

    A renamed file gets a cookie behind all others. A file that was not listed under its old name
    must be listed under its new one, so the listing is extended once. It is not extended again, or
    a program that renames each name it reads would never come to the end.
    """
    while True:
        while page := dentries.listing(handle.inode, after, READDIR_PAGE, handle.listing_end):
            yield from page
            after = page[-1][0]
        if not handle.may_extend:
            return
        handle.listing_end, handle.may_extend = dentries.next_cookie(), False
