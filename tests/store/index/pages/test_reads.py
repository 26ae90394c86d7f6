"""Reads of pages: one that the disk refuses costs no other page, and few calls."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfs.store.disk.directory import Directory
from modelfs.store.index.pages.data_file import DATA_FILE
from modelfs.store.index.pages.layout import PageFile
from modelfs.store.index.pages.reads import read_pages

SIZE = 4096
CONTENT = [bytes([number]) * SIZE for number in range(10)]


class Disk(PageFile):
    """A file of ten pages on a disk that cannot read some of them."""

    bad: frozenset[int] = frozenset()
    reads: int = 0

    def read_into(self, number: int, into: memoryview) -> int:
        self.reads += 1
        if self.bad.intersection(range(number, number + len(into) // SIZE)):
            raise OSError(errno.EIO, "Input/output error")
        return super().read_into(number, into)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    (tmp_path / DATA_FILE).write_bytes(b"".join(CONTENT))
    with Disk(Directory(tmp_path)) as file:
        file.page_size = SIZE
        yield file


def test_pages_in_a_row_are_one_read(disk: Disk) -> None:
    """Each page is in the place of its number in the list."""
    buffer = bytearray(4 * SIZE)
    assert read_pages(disk, [3, 4, 5, 8], 10, buffer) == {}
    assert buffer == b"".join(CONTENT[number] for number in (3, 4, 5, 8))
    assert disk.reads == 2


def test_a_bad_page_costs_no_other(disk: Disk) -> None:
    """The pages beside it are read, and its problem is that of the disk."""
    disk.bad = frozenset([4])
    buffer = bytearray(3 * SIZE)
    unread = read_pages(disk, [3, 4, 5], 10, buffer)
    assert unread == {4: "it cannot be read: Input/output error"}
    assert buffer[:SIZE] + buffer[2 * SIZE :] == CONTENT[3] + CONTENT[5]


def test_pages_behind_the_end_are_named(disk: Disk) -> None:
    """A file that is cut short, and a number that no page can have, are problems of the page."""
    buffer = bytearray(4 * SIZE)
    assert read_pages(disk, [9, 10, 11, 300], 12, buffer) == {
        10: "the file ends before it",
        11: "the file ends before it",
        300: "it lies outside of the file",
    }
    assert buffer[:SIZE] == CONTENT[9]
