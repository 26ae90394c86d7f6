"""The layout of LMDB's data file, read without LMDB: its page heads, meta pages, nodes and trees.

The layout is that of `MDB_page`, `MDB_meta`, `MDB_db` and `MDB_node` in lmdb's mdb.c, version 0.9,
on 64-bit machines, little-endian. All pages have the same size, and page number n begins at n times
that size::

    page     number u64, pad u16, flags u16, lower u16, upper u16    of an overflow page: pages u32
             a branch or leaf: offsets of the nodes, u16 each, up to `lower`; nodes from `upper` on
    meta     a page head; magic u32, version u32, address u64, map size u64, two trees (of free
             pages and of tables), last page u64, transaction u64
    tree     pad u32 (in the first tree the page size), flags u16, depth u16, number of branch,
             leaf and overflow pages and of entries u64 each, root page u64
    node     u16 each: low, high, flags, size of the key; the key; of a leaf's the value
             branch: the child's page number is low, high, flags; the first key of a page is ignored
             leaf: the value's size is low, high; if BIG, the value is the number u64 of the first
             overflow page, behind whose head it begins; if a TREE, it is the tree of a table

Pages 0 and 1 are meta pages, see `meta`. Each names a commit, and a commit writes the older
of the two, so the other one names the commit before, all pages of which are still in the file.

Example. A file of 6 pages: page 1 names commit 7, whose tree of tables is the leaf page 5. Its only
node has the key `meta`, and as value the tree of that table, with the leaf page 4 as root. Page 0
names commit 6, with the leaf pages 3 and 2. The tree of free pages has the entry 7: pages 2 and 3.
"""

import io
import os
import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, NamedTuple, Self

from modelfs.store.disk.directory import Directory
from modelfs.store.index.pages.data_file import DATA_FILE

# Flags of pages.
BRANCH: Final = 0x01
LEAF: Final = 0x02
OVERFLOW: Final = 0x04
# Flags of nodes in leaves.
BIG: Final = 0x01
TREE: Final = 0x02
# The flag of a tree whose keys are numbers of this machine: the tree of free pages.
INTEGER_KEYS: Final = 0x08
NO_PAGE: Final = (1 << 64) - 1
KEY_BYTES_MAX: Final = 511
DEPTH_MAX: Final = 32
OFFSET_MAX: Final = 1 << 62

PAGE_HEAD: Final = struct.Struct("<QHHHH")
NODE_HEAD: Final = struct.Struct("<HHHH")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")
_TREE: Final = struct.Struct("<IHH4QQ")
META_CONTENT_SIZE: Final = struct.calcsize("<IIQQ") + 2 * _TREE.size + struct.calcsize("<QQ")


class DamagedPage(Exception):
    """A page is not what LMDB writes. The message is the problem, without the page's number."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A B-tree: the table of free pages, the table of tables, or one of the index's tables."""

    flags: int
    depth: int  # levels; 0: no page
    branches: int  # pages
    leaves: int
    overflow: int
    entries: int
    root: int

    SIZE = _TREE.size

    @classmethod
    def from_bytes(cls, value: bytes) -> "Tree":
        """Decode a tree; `value` is as long as one."""
        return cls(*_TREE.unpack(value)[1:])


class Node(NamedTuple):
    """A node of a branch or leaf page."""

    key: bytes
    flags: int  # of a leaf's
    child: int  # of a branch's: a page
    size: int  # of a leaf's value
    value: bytes  # of a leaf's; if `BIG`, the number of an overflow page


class PageFile:
    """A data file, read with pread(2): a page that the disk cannot read is an `OSError`.

    To LMDB's mapping it would be a SIGBUS.
    """

    def __init__(self, folder: Directory) -> None:
        """Open the data file in the folder of an index, which stays open.

        Raises:
            StoreNotTrusted: it is not a regular file of the store's owner.
            OSError: it cannot be opened.
        """
        self.folder = folder
        self.path = folder.path / DATA_FILE  # for messages
        # Not a number: if Ctrl-C comes before it is assigned, the file would stay open.
        self._file = io.FileIO(DATA_FILE, opener=lambda name, _: folder.open(name, os.O_RDONLY))
        self.page_size = 4096

    def close(self) -> None:
        self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self.fileno()).st_size

    @property
    def pages(self) -> int:
        """Whole pages of the file."""
        return self.size // self.page_size

    def read(self, number: int) -> bytes:
        """Return the bytes of a page; fewer if the file ends before."""
        return self.read_at(number * self.page_size, self.page_size)

    def read_at(self, start: int, size: int) -> bytes:
        """Return the bytes at an offset; fewer if the file ends before."""
        # A number out of a damaged page can be beyond all that pread(2) takes.
        return os.pread(self.fileno(), size, start) if start < OFFSET_MAX else b""

    def read_into(self, number: int, into: memoryview) -> int:
        """Read pages into a buffer, and return the number of bytes."""
        return os.preadv(self.fileno(), [into], number * self.page_size)

    def kind(self, number: int) -> tuple[int, int]:
        """Return the flags of a page, and how many overflow pages it begins if it is one.

        The flags are 0 if the page cannot be read, or has another number.
        """
        try:
            head = self.read_at(number * self.page_size, PAGE_HEAD.size)
        except OSError:
            return 0, 0
        if len(head) < PAGE_HEAD.size or PAGE_HEAD.unpack(head)[0] != number:
            return 0, 0
        return PAGE_HEAD.unpack(head)[2], _U32.unpack_from(head, PAGE_HEAD.size - _U32.size)[0]


def nodes_of(page: bytes, number: int, kind: int) -> list[Node]:
    """Return the nodes of a branch or leaf page.

    Args:
        page: its bytes.
        number: of the page.
        kind: `BRANCH` or `LEAF`.

    Raises:
        DamagedPage: LMDB writes no such page.
    """
    own_number, _, flags, lower, upper = PAGE_HEAD.unpack_from(page)
    if own_number != number:
        raise DamagedPage(f"it has the number {own_number}")
    if flags != kind:
        raise DamagedPage(f"its flags are {flags:#x} in place of {kind:#x}")
    if lower % 2 or not PAGE_HEAD.size < lower <= upper <= len(page):
        raise DamagedPage(f"its free space is from {lower} to {upper}")
    offsets = struct.unpack_from(f"<{(lower - PAGE_HEAD.size) // 2}H", page, PAGE_HEAD.size)
    nodes, places = [], []
    for offset in offsets:
        if not upper <= offset <= len(page) - NODE_HEAD.size:
            raise DamagedPage(f"a node lies at {offset}")
        node, size = _node_at(page, offset, kind)
        nodes.append(node)
        places.append((offset, offset + size + size % 2))
    # LMDB keeps nodes without gaps between them, up to the page's end.
    places.sort()
    if places[0][0] != upper or places[-1][1] != len(page):
        raise DamagedPage("its nodes do not fill it")
    if any(one[1] != other[0] for one, other in pairwise(places)):
        raise DamagedPage("its nodes overlap, or have gaps between them")
    return nodes


def _node_at(page: bytes, offset: int, kind: int) -> tuple[Node, int]:
    """Return a node, and its bytes in the page."""
    low, high, flags, key_size = NODE_HEAD.unpack_from(page, offset)
    start = offset + NODE_HEAD.size
    key = page[start : start + key_size]
    stop = start + key_size
    if kind == BRANCH:
        node = Node(key, 0, low | high << 16 | flags << 32, 0, b"")
    else:
        size = low | high << 16
        inline = _U64.size if flags & BIG else size
        node = Node(key, flags, 0, size, page[stop : stop + inline])
        stop += inline
        if not 0 < key_size <= KEY_BYTES_MAX:
            raise DamagedPage(f"a key has {key_size} bytes")
    if stop > len(page):
        raise DamagedPage(f"the node at {offset} reaches past the end")
    return node, stop - offset


def overflow_run(file: PageFile, node: Node) -> tuple[int, int]:
    """Return the first of the overflow pages of a `BIG` node, and how many there are.

    Raises:
        DamagedPage: its head is not that of overflow pages, or of too few.
        OSError: it cannot be read.
    """
    first = int(_U64.unpack(node.value)[0])
    if first * file.page_size >= file.size:
        raise DamagedPage(f"its overflow page {first} lies outside of the file")
    head = file.read_at(first * file.page_size, PAGE_HEAD.size)
    number, _, flags, _, _ = PAGE_HEAD.unpack(head)
    count = int(_U32.unpack_from(head, PAGE_HEAD.size - _U32.size)[0])
    needed = pages_of(file, node)
    if (number, flags) != (first, OVERFLOW) or count < needed:
        raise DamagedPage(f"its overflow page {first} has a damaged head")
    if (first + needed) * file.page_size > file.size:
        raise DamagedPage(f"the file ends before the end of its overflow page {first}")
    return first, count


def pages_of(file: PageFile, node: Node) -> int:
    """Return how many overflow pages the value of a `BIG` node needs."""
    return (PAGE_HEAD.size + node.size - 1) // file.page_size + 1


def value_of(file: PageFile, node: Node) -> bytes:
    """Return the value of a leaf's node. Raises as `overflow_run`."""
    if not node.flags & BIG:
        return node.value
    first, _ = overflow_run(file, node)
    return file.read_at(first * file.page_size + PAGE_HEAD.size, node.size)
