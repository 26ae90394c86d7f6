"""Sums of all pages of a data file, recorded when the index was closed in order.

If the disk loses the write of a page, the page is as an older commit left it: its rows match their
checksums, and each of them was right once. Nothing in the page can show its age. So the end of a
writer records a sum of every page, in a file beside the data file. The next opening compares the
pages that it walks (see `walk`), if the meta page still is the one of the record. Without a record,
or with a damaged one, a page is believed: after a crash, and of a backup that has none. A writer
that has opened the index removes the record, so it never is of another file's commit.

The file has `MAGIC`; the content of the meta page; the sum of each page, u64, little-endian; and
the XXH3-64 of all that comes before, big-endian. It is not synced. As it has the content of the
meta page, it also is a record of the last commit (see `meta`).

The sum of a leaf or branch page is that of its head and its nodes. What lies between them is left
over from older nodes, and no damage there matters.

Example. A daemon ends after commit 9, which changed the extents of a file on page 8. The disk
confirms that page and loses it; after a power cut it is as commit 7 wrote it, and reads of the file
would return bytes of that time. `PageSums.differs` is true of page 8. The index is refused, and
repair counts the rows of page 8 as lost.

The record costs 8 bytes for a page of 4 KiB.
"""

import os
from contextlib import suppress
from typing import Final, Self

import numpy as np
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from modelfs.errors import StoreNotTrusted
from modelfs.store.disk.directory import Directory
from modelfs.store.index.pages.data_file import LOOSE_PAGES
from modelfs.store.index.pages.layout import BRANCH, LEAF, META_CONTENT_SIZE, PAGE_HEAD, PageFile

SUMS_FILE: Final = "page-sums"
MAGIC: Final = b"modelfs page sums 1\n"
_HEAD_SIZE: Final = len(MAGIC) + META_CONTENT_SIZE
_SUM_SIZE: Final = 8
_DIGEST_SIZE: Final = 8
# Pages that are read at a time.
BATCH: Final = 256


class PageSums:
    """The sums of the pages of a commit; of no page if there is no record.

    Attributes:
        meta: the content of the commit's meta page; empty if there is no record.
    """

    def __init__(self, meta: bytes = b"", sums: bytes = b"") -> None:
        self.meta = meta
        self._sums = np.frombuffer(sums, "<u8")

    @classmethod
    def read(cls, file: PageFile) -> Self:
        """Read the record beside a data file whose page size is set.

        One of more pages than the data file has on the disk is ignored, so it takes no memory.
        """
        try:
            pages = os.fstat(file.fileno()).st_blocks * 512 // file.page_size + LOOSE_PAGES
            with (
                file.folder.opened(SUMS_FILE, os.O_RDONLY) as fd,
                open(fd, "rb", closefd=False) as record,
            ):
                size = os.fstat(fd).st_size
                if not 0 <= size - _HEAD_SIZE - _DIGEST_SIZE <= pages * _SUM_SIZE:
                    return cls()
                recorded = record.read(size)
        except (OSError, StoreNotTrusted):
            return cls()
        content, digest = recorded[:-_DIGEST_SIZE], recorded[-_DIGEST_SIZE:]
        meta, sums = content[len(MAGIC) : _HEAD_SIZE], content[_HEAD_SIZE:]
        is_whole = len(recorded) == size and not len(sums) % _SUM_SIZE
        is_right = content.startswith(MAGIC) and digest == xxh3_64_digest(content)
        return cls(meta, sums) if is_whole and is_right else cls()

    def of(self, meta: bytes) -> Self:
        """Return the sums for the commit with this meta page; none if they are of another one."""
        return self if meta == self.meta else type(self)()

    def differs(self, number: int, page: bytes | memoryview) -> bool:
        """Whether a page is another one than it was at the record."""
        is_known = number < len(self._sums)
        return is_known and (len(page) < PAGE_HEAD.size or sum_of(page) != self._sums[number])

    def has(self, number: int, page: bytes) -> bool:
        """Whether a page is known, and the same as at the record."""
        return number < len(self._sums) and not self.differs(number, page)


def record_sums(file: PageFile, meta: bytes, count: int) -> None:
    """Record the sums of an index that no process writes. An error only leaves no record.

    Args:
        file: the data file, with its page size set.
        meta: the content of the meta page of the last commit.
        count: pages of that commit.
    """
    with suppress(OSError, StoreNotTrusted):
        content = MAGIC + meta + _all_sums(file, min(count, file.pages)).tobytes()
        drop_sums(file.folder)
        with file.folder.opened(SUMS_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
            os.pwrite(fd, content + xxh3_64_digest(content), 0)


def drop_sums(folder: Directory) -> None:
    """Remove the record. If that fails, it is of another commit after the next one."""
    with suppress(OSError):
        folder.unlink(SUMS_FILE)


def _all_sums(file: PageFile, count: int) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    sums = np.zeros(count, "<u8")
    size = file.page_size
    for start in range(0, count, BATCH):
        pages = memoryview(file.read_at(start * size, min(BATCH, count - start) * size))
        for at in range(len(pages) // size):
            sums[start + at] = sum_of(pages[at * size : (at + 1) * size])
    return sums


def sum_of(page: bytes | memoryview) -> int:
    """Return the sum of a page."""
    _, _, flags, lower, upper = PAGE_HEAD.unpack_from(page)
    if flags not in (BRANCH, LEAF) or not PAGE_HEAD.size <= lower <= upper <= len(page):
        return xxh3_64_intdigest(page)
    return xxh3_64_intdigest(page[upper:], xxh3_64_intdigest(page[:lower]))
