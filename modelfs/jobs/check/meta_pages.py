"""LMDB's two meta pages, read without LMDB: each names a commit, and may be damaged.

A commit writes the older of the two, so the other one always names the commit before, all pages of
which are still in the file. LMDB uses the newer one. If either is damaged, LMDB opens nothing, and
it does not detect all damage. If one of them is whole, the store can be opened as of its commit.

Example. Page 0 names commit 8, page 1 commit 7. The power failed while commit 9 wrote page 1, which
is damaged now. `check_meta_pages` has a finding, and repair replaces page 1 by page 0.

The layout is that of `MDB_page` and `MDB_meta` in lmdb's mdb.c, version 0.9, on 64-bit machines,
little-endian: a page's number u64, u16 zero, u16 flags, u32; then magic u32, version u32, address
u64, map size u64, two `MDB_db` (of free pages and of tables), last page u64, transaction u64. An
`MDB_db` is u32 (in the first, the page size), u16 flags, u16 depth, four counts u64, root page u64.
"""

import os
import struct
from dataclasses import dataclass
from typing import Final

from modelfs.errors import IndexLost
from modelfs.jobs.check.findings import Finding
from modelfs.store.directory import Directory
from modelfs.store.index.data_file import DATA_FILE

MAGIC: Final = 0xBEEFC0DE
VERSION: Final = 1
IS_META: Final = 0x08
IS_TREE: Final = 0x03  # a branch or a leaf
NOPAGE_HEAD: Final = (1 << 64) - 1
PAGE_SIZES: Final = tuple(1 << bits for bits in range(9, 17))

PAGE_HEAD = struct.Struct("<QHHI")
_DB = "IHH4QQ"
_META = struct.Struct(f"<IIQQ{_DB}{_DB}QQ")


@dataclass(frozen=True, slots=True)
class Meta:
    """A meta page that is whole."""

    page: bytes  # its header and content
    page_size: int
    transaction: int


def check_meta_pages(index: Directory) -> list[Finding]:
    """Return the findings about the meta pages of an index. A daemon may have the store mounted.

    Raises:
        IndexLost: both are damaged.
    """
    for _ in range(3):  # a commit may write one of them just now
        damaged = [number for number, meta in enumerate(read_meta_pages(index)) if meta is None]
        if not damaged:
            return []
    if len(damaged) == 2:
        raise both_damaged(index)
    message = f"meta page {damaged[0]} of the index is damaged; the rest is not checked"
    return [Finding("meta-page", message)]


def both_damaged(index: Directory) -> IndexLost:
    """Return the error of an index of which nothing can be read."""
    return IndexLost(f"both meta pages of {index.path / DATA_FILE} are damaged")


def read_meta_pages(index: Directory) -> list[Meta | None]:
    """Return both meta pages of an index's file, None for one that is damaged."""
    with index.opened(DATA_FILE, os.O_RDONLY) as fd:
        first = _meta(fd, 0, 0)
        sizes = PAGE_SIZES if first is None else (first.page_size,)
        second = next(filter(None, (_meta(fd, 1, size) for size in sizes)), None)
    return [first, second]


def _meta(fd: int, number: int, at: int) -> Meta | None:
    page = os.pread(fd, PAGE_HEAD.size + _META.size, at)
    if len(page) < PAGE_HEAD.size + _META.size:
        return None
    own_number, _, flags, _ = PAGE_HEAD.unpack_from(page)
    magic, version, _, _, size, *rest, last, transaction = _META.unpack_from(page, PAGE_HEAD.size)
    if (own_number, flags & IS_META, magic, version) != (number, IS_META, MAGIC, VERSION):
        return None
    if size not in PAGE_SIZES or at not in (0, size):
        return None
    roots = (rest[6], rest[14])
    if not all(_is_tree(fd, root, last, size) for root in roots):
        return None
    return Meta(page, size, transaction)


def _is_tree(fd: int, root: int, last: int, size: int) -> bool:
    """Return whether a page can be the root of a tree, in a file whose last page is `last`."""
    if root == NOPAGE_HEAD:
        return True
    if not 1 < root <= last:
        return False
    page = os.pread(fd, PAGE_HEAD.size, root * size)
    if len(page) < PAGE_HEAD.size:
        return False
    number, _, flags, _ = PAGE_HEAD.unpack(page)
    return bool(number == root and flags & IS_TREE)
