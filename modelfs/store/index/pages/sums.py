"""Sums of all pages of a data file, recorded when the index was closed in order.

If the disk loses the write of a page, the page is as an older commit left it: its rows match their
checksums, and each of them was right once. Nothing in the page can show its age. So the end of a
writer records a sum of every page, in a file beside the data file. The next opening compares the
pages that it walks (see `walk`), if the meta page still is the one of the record. A record that is
missing, damaged or of another commit is ignored: after a crash, after a commit of an older version
of modelfs, and with a data file out of a backup.

The file has `MAGIC`; the content of the meta page; the sum of each page, u64, little-endian; and
the XXH3-64 of all that comes before, big-endian. It is not synced: without it, a page is believed
as before.

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
from modelfs.store.index.pages.layout import BRANCH, LEAF, PAGE_HEAD, PageFile
from modelfs.store.index.pages.meta import Meta, newest, read_metas

SUMS_FILE: Final = "page-sums"
MAGIC: Final = b"modelfs page sums 1\n"
_SUM_SIZE: Final = 8
_DIGEST_SIZE: Final = 8
# Pages that are read at a time.
BATCH: Final = 256


class PageSums:
    """The sums of the pages of a commit; of no page if there is no record of it."""

    def __init__(self, sums: bytes = b"") -> None:
        self._sums = np.frombuffer(sums, "<u8")

    @classmethod
    def read(cls, folder: Directory, file: PageFile, meta: Meta) -> Self:
        """Read the record of a commit.

        Args:
            folder: of the index.
            file: its data file.
            meta: of the commit.
        """
        head = MAGIC + meta.content
        pages = min(meta.last + 1, file.pages + LOOSE_PAGES)
        size_max = len(head) + pages * _SUM_SIZE + _DIGEST_SIZE
        try:
            with (
                folder.opened(SUMS_FILE, os.O_RDONLY) as fd,
                open(fd, "rb", closefd=False) as record,
            ):
                recorded = record.read(size_max + 1)
        except (OSError, StoreNotTrusted):
            return cls()
        content, digest = recorded[:-_DIGEST_SIZE], recorded[-_DIGEST_SIZE:]
        sums = content[len(head) :]
        is_whole = content.startswith(head) and digest == xxh3_64_digest(content)
        return cls(sums) if is_whole and not len(sums) % _SUM_SIZE else cls()

    def differs(self, number: int, page: bytes | memoryview) -> bool:
        """Whether a page is another one than it was at the record."""
        return number < len(self._sums) and sum_of(page) != self._sums[number]


def record_sums(folder: Directory) -> None:
    """Record the sums of an index that no process writes. An error only leaves no record."""
    with suppress(OSError, StoreNotTrusted), PageFile(folder) as file:
        meta = newest(read_metas(file))
        if meta is None:
            return
        content = MAGIC + meta.content + _all_sums(file, min(meta.last + 1, file.pages)).tobytes()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        with folder.opened(SUMS_FILE, flags) as fd, open(fd, "wb", closefd=False) as out:
            out.write(content + xxh3_64_digest(content))


def drop_sums(folder: Directory) -> None:
    """Remove the record, before another data file takes the place of the recorded one."""
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
