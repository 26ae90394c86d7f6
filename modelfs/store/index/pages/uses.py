"""The use of each page of a data file: in a tree, in a list of free pages, or unknown.

Example. A file of 6 pages has the meta pages 0 and 1, and one tree of the pages 2 and 4. A list has
the free page 3. Page 5 has no use: a commit has written it that failed, or the tree with it is
damaged. If the list had page 4, too, `add_free` would raise: LMDB would overwrite a page in use.
"""

import enum

import numpy as np

from modelfs.store.index.pages.layout import DamagedPage


class Use(enum.IntEnum):
    """The use of a page."""

    NONE = 0
    TREE = 1
    FREE = 2


class PageUses:
    """The uses of all pages of a file. Each page has one."""

    def __init__(self, count: int) -> None:
        """Begin with the meta pages in use, and no other of the `count` pages."""
        self.by_page = bytearray(count)
        self.by_page[:2] = bytes([Use.TREE] * 2)
        # The largest page number that is in use or free, also behind the end of the file.
        self.highest = 1

    def claim(self, first: int, count: int = 1) -> None:
        """Record pages as in use by a tree.

        Raises:
            DamagedPage: they are outside of the file, or used or free already.
        """
        stop = first + count
        if not 1 < first < stop <= len(self.by_page):
            raise DamagedPage("it lies outside of the file")
        if any(uses := self.by_page[first:stop]):
            is_free = Use.FREE in uses
            raise DamagedPage("it is in use and free" if is_free else "it has two uses")
        self.by_page[first:stop] = bytes([Use.TREE] * count)
        self.highest = max(self.highest, stop - 1)

    def add_free(self, value: bytes, last: int) -> None:
        """Record the pages of a list of free pages.

        Args:
            value: the number of pages, then their numbers, as LMDB stores them.
            last: page of the commit. It may lie behind the end of the file.

        Raises:
            DamagedPage: the list is damaged, or one of its pages is used or free already.
        """
        pages = np.frombuffer(value[: len(value) // 8 * 8], "<u8")
        if len(value) % 8 or not len(pages) or int(pages[0]) != len(pages) - 1:
            raise DamagedPage("a list of free pages has another length than it says")
        pages = pages[1:]  # in descending order
        if (pages[1:] >= pages[:-1]).any():
            raise DamagedPage("a list of free pages is not in order")
        if len(pages) and not 1 < int(pages[-1]) <= int(pages[0]) < last + 1:
            raise DamagedPage("a free page lies outside of the file")
        self.highest = max(self.highest, int(pages[0]) if len(pages) else 0)
        uses = np.frombuffer(self.by_page, np.uint8)
        inside = pages[pages < len(uses)].astype(np.int64)
        if uses[inside].any():
            raise DamagedPage("a free page is in use, or in two lists")
        uses[inside] = Use.FREE

    def is_in_tree(self, number: int) -> bool:
        return number < len(self.by_page) and self.by_page[number] == Use.TREE

    def pages(self, use: Use) -> list[int]:
        """Return the pages of the file with one use, in ascending order."""
        return np.flatnonzero(np.frombuffer(self.by_page, np.uint8) == use).tolist()
