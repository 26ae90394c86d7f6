"""The meta pages of LMDB's data file, and the record of the last commit beside them.

Theory of operation. Pages 0 and 1 each name a commit, and LMDB believes the one with the larger
number. A commit t writes page t & 1, so the other page names commit t - 1. After each commit a
*record* with the content of its meta page, and a checksum of that, is written to the last sector of
the other meta page, where LMDB has nothing.

LMDB makes a commit durable before it returns, and the record is written after that. So there is no
record of a commit that a crash can lose. It is not synced itself: the next commit, which writes the
same page, or the kernel makes it durable. A crash before that leaves an older record. A record
costs 0.07 ms of processor time. For the check of pages and records see `meta_check`.

Example. Commit 9 writes page 1, and its record is on page 0, which names commit 8. Page 1 has the
record of commit 8.
"""

import os
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

from xxhash import xxh3_64_digest

from modelfs.store.disk.directory import Directory
from modelfs.store.index.pages.data_file import DATA_FILE
from modelfs.store.index.pages.layout import (
    BRANCH,
    DEPTH_MAX,
    INTEGER_KEYS,
    LEAF,
    NO_PAGE,
    PAGE_HEAD,
    DamagedPage,
    Node,
    PageFile,
    Tree,
    nodes_of,
)
from modelfs.store.index.pages.sums import PageSums, record_sums

MAGIC: Final = 0xBEEFC0DE.to_bytes(4, "little")
VERSION: Final = 1
META: Final = 0x08  # the flag of a meta page
PAGE_SIZES: Final = (4096, *(1 << bits for bits in range(9, 17) if bits != 12))
_META: Final = struct.Struct(f"<IIQQ{Tree.SIZE}s{Tree.SIZE}sQQ")
_NUMBER: Final = struct.Struct("<Q")
META_SIZE: Final = PAGE_HEAD.size + _META.size

# The address space of a process.
MAP_MAX: Final = 1 << 47

# A record is in the last sector of a page: a disk writes a sector whole.
SECTOR: Final = 512
RECORD_MAGIC: Final = b"modelfs1"
RECORD: Final = struct.Struct(f"<8s{_META.size}s8s")


@dataclass(frozen=True, slots=True)
class Meta:
    """The content of a meta page."""

    content: bytes  # without the page's head
    page_size: int
    map_size: int
    last: int  # page of the file
    transaction: int
    free: Tree
    tables: Tree

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        _, _, _, map_size, free, tables, last, transaction = _META.unpack(content)
        page_size = int.from_bytes(free[:4], "little")
        trees = Tree.from_bytes(free), Tree.from_bytes(tables)
        return cls(content, page_size, map_size, last, transaction, *trees)

    def with_fields(
        self,
        *,
        map_size: int | None = None,
        last: int | None = None,
        transaction: int | None = None,
    ) -> "Meta":
        """Return one with other values of some fields."""
        old = (self.map_size, self.last, self.transaction)
        new = (map_size, last, transaction)
        size, *rest = (was if now is None else now for was, now in zip(old, new, strict=True))
        magic, version, address, _, free, tables, _, _ = _META.unpack(self.content)
        return Meta.from_bytes(_META.pack(magic, version, address, size, free, tables, *rest))

    def with_tables(self, root: int) -> "Meta":
        """Return one with another root of the tree of tables."""
        end = len(self.content) - 2 * _NUMBER.size
        root_bytes = _NUMBER.pack(root)
        content = self.content[: end - len(root_bytes)] + root_bytes + self.content[end:]
        return Meta.from_bytes(content)

    def has_map(self) -> bool:
        """Whether the size of the map can be right."""
        return (self.last + 1) * self.page_size <= self.map_size <= MAP_MAX

    def is_of(self, last_list: int) -> bool:
        """Whether its number can be right, by the commit of its last list of free pages.

        Args:
            last_list: 0 if there is no list. A first commit frees no page.
        """
        return self.transaction == last_list or (not last_list and self.transaction <= 1)

    def has_trees_of(self, other: "Meta") -> bool:
        return (self.free, self.tables) == (other.free, other.tables)


def page_of(meta: Meta, number: int, flags: int = META) -> bytes:
    """Return the bytes of a meta page, with its head; with other flags it is refused."""
    return PAGE_HEAD.pack(number, 0, flags, 0, 0) + meta.content


# -- fields of one page


def _fixed_fields(number: int, page_size: int) -> dict[str, tuple[int, bytes]]:
    """Return the offsets and bytes of the fields that are the same in every meta page."""
    free = PAGE_HEAD.size + struct.calcsize("<IIQQ")
    tables = free + Tree.SIZE
    return {
        "number": (0, struct.pack("<Q", number)),
        "flags": (10, struct.pack("<H", META)),
        "magic": (PAGE_HEAD.size, MAGIC),
        "version": (PAGE_HEAD.size + 4, struct.pack("<I", VERSION)),
        "page size": (free, struct.pack("<I", page_size)),
        "flags of the free pages": (free + 4, struct.pack("<H", INTEGER_KEYS)),
        "padding of the tables": (tables, bytes(4)),
        "flags of the tables": (tables + 4, bytes(2)),
    }


def wrong_fields(page: bytes, number: int, page_size: int) -> list[str]:
    """Return the names of a meta page's fields that have not the value of every meta page."""
    fields = _fixed_fields(number, page_size).items()
    return [name for name, (at, value) in fields if page[at : at + len(value)] != value]


def with_fixed_fields(page: bytes, number: int, page_size: int) -> Meta:
    """Return the content of a meta page with the right values of these fields."""
    right = bytearray(page)
    for at, value in _fixed_fields(number, page_size).values():
        right[at : at + len(value)] = value
    return Meta.from_bytes(bytes(right[PAGE_HEAD.size :]))


# -- a file's pages


def raw_pages(file: PageFile) -> list[bytes | None]:
    """Return the bytes of both meta pages, None for one that cannot be read; set the page size."""

    def pages(size: int) -> list[bytes | None]:
        return [_read(file, number * size, META_SIZE) for number in range(2)]

    def wrong(size: int) -> int:
        found = enumerate(pages(size))
        return sum(len(wrong_fields(page or b"", number, size)) for number, page in found)

    sound = next((size for size in PAGE_SIZES if not wrong(size)), None)
    file.page_size = sound or min(PAGE_SIZES, key=wrong)
    return pages(file.page_size)


def read_metas(file: PageFile) -> list[Meta | None]:
    """Return both meta pages, None for one with a wrong field, and set the page size."""
    return [
        None
        if page is None or wrong_fields(page, number, file.page_size)
        else Meta.from_bytes(page[PAGE_HEAD.size :])
        for number, page in enumerate(raw_pages(file))
    ]


def newest(metas: Sequence[Meta | None]) -> Meta | None:
    """Return the meta page of the last commit without wrong fields, None if both have some."""
    whole = [meta for meta in metas if meta is not None]
    return max(whole, key=lambda meta: meta.transaction, default=None)


def _read(file: PageFile, start: int, size: int) -> bytes | None:
    try:
        found = file.read_at(start, size)
    except OSError:
        return None
    return found if len(found) == size else None


# -- the number of a commit


def last_list(file: PageFile, meta: Meta) -> Node | None:
    """Return the entry of the last list of free pages of a commit, None if there is no list.

    Its key is the number of a commit, little-endian. Each commit but the first has a list of its
    own, since it frees the root of the tables of the commit before.

    Raises:
        DamagedPage: a page above it, or its own, is damaged.
        OSError: the disk failed.
    """
    page, depth = meta.free.root, meta.free.depth
    if page == NO_PAGE and not depth:
        return None
    if not 0 < depth <= DEPTH_MAX:
        raise DamagedPage(f"the tree of free pages has the depth {depth}")
    for kind in (*[BRANCH] * (depth - 1), LEAF):
        content = file.read(page)
        if len(content) < file.page_size:
            raise DamagedPage("the file ends before it")
        last = nodes_of(content, page, kind)[-1]
        page = last.child
    if len(last.key) != _NUMBER.size:
        raise DamagedPage("a key is no number")
    return last


def last_freed(file: PageFile, meta: Meta) -> int:
    """Return the commit of the last list of free pages, 0 without one. Raises as `last_list`."""
    last = last_list(file, meta)
    return int.from_bytes(last.key, "little") if last is not None else 0


# -- the record


def read_records(file: PageFile) -> list[Meta]:
    """Return the whole records of a file whose page size is set.

    The sums of its pages, from when it was closed, have another record: see `sums`.
    """
    whole = _records_of_sums(file)
    for number in range(2):
        found = _read(file, (number + 1) * file.page_size - SECTOR, RECORD.size)
        magic, content, checksum = RECORD.unpack(found or bytes(RECORD.size))
        if magic == RECORD_MAGIC and checksum == xxh3_64_digest(content):
            whole.append(Meta.from_bytes(content))
    return whole


def _records_of_sums(file: PageFile) -> list[Meta]:
    """Return the record that the sums have, if the file has the roots of that commit."""
    sums = PageSums.read(file)
    if not sums.meta:
        return []
    meta = Meta.from_bytes(sums.meta)
    roots = [meta.tables.root, *(root for root in (meta.free.root,) if root != NO_PAGE)]
    try:
        is_of_file = all(sums.has(root, file.read(root)) for root in roots)
    except OSError:
        return []
    return [meta] if is_of_file and meta.page_size == file.page_size else []


def record_close(folder: Directory) -> None:
    """Record the sums of the pages of the last commit, after the last change of a writer."""
    with suppress(OSError), PageFile(folder) as file:
        if (meta := newest(read_metas(file))) is not None:
            record_sums(file, meta.content, meta.last + 1)


def read_record(file: PageFile) -> Meta | None:
    """Return the newest record of a file whose page size is set, None if no record is whole."""
    return newest(read_records(file))


def write_record(folder: Directory, transaction: int) -> None:
    """Write the record of a durable commit, unless a later one has taken its page already.

    Without a record no commit is lost, so an error is none of the commit: a full disk (btrfs has no
    block for it then), or too many open files.
    """
    with suppress(OSError):
        with PageFile(folder) as file:
            meta = newest(read_metas(file))
        if meta is None or meta.transaction != transaction:
            return
        record = RECORD.pack(RECORD_MAGIC, meta.content, xxh3_64_digest(meta.content))
        number = (transaction + 1) & 1
        with folder.opened(DATA_FILE, os.O_RDWR) as fd:
            os.pwrite(fd, record, (number + 1) * meta.page_size - SECTOR)
