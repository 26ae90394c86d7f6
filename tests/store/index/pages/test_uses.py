"""Uses of pages: each page has one use, and a list of free pages is believed only if it can be."""

import struct

import pytest

from modelfs.store.index.pages.layout import DamagedPage
from modelfs.store.index.pages.uses import PageUses, Use


def free_list(*pages: int) -> bytes:
    return struct.pack(f"<{len(pages) + 1}Q", len(pages), *pages)


def test_a_page_has_one_use() -> None:
    """A page is claimed once, and lies in one list of free pages, or in none if it is in use."""
    uses = PageUses(8)
    uses.claim(2)
    uses.claim(4, 2)
    uses.add_free(free_list(6, 3), 7)
    assert uses.pages(Use.TREE) == [0, 1, 2, 4, 5]
    assert uses.pages(Use.FREE) == [3, 6]
    assert uses.pages(Use.NONE) == [7]
    assert uses.highest == 6
    for first, problem in ((4, "two uses"), (3, "in use and free"), (1, "outside"), (8, "outside")):
        with pytest.raises(DamagedPage, match=problem):
            uses.claim(first)
    for page in (5, 6):
        with pytest.raises(DamagedPage, match="in use, or in two lists"):
            uses.add_free(free_list(page), 7)
    assert uses.pages(Use.NONE) == [7]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"", "another length"),
        (free_list(3, 2)[:-1], "another length"),
        (struct.pack("<QQ", 2, 3), "another length"),
        (free_list(2, 3), "not in order"),
        (free_list(3, 3), "not in order"),
        (free_list(9), "outside"),
        (free_list(3, 1), "outside"),
    ],
)
def test_a_damaged_list_is_refused(value: bytes, problem: str) -> None:
    """A list with another length, order or range of pages than LMDB writes changes no use."""
    uses = PageUses(8)
    with pytest.raises(DamagedPage, match=problem):
        uses.add_free(value, 8)
    assert uses.pages(Use.FREE) == []


def test_a_free_page_behind_the_file_is_no_damage() -> None:
    """The last pages of a commit may be free, and never have been written."""
    uses = PageUses(8)
    uses.add_free(free_list(11, 7), 11)
    assert (uses.pages(Use.FREE), uses.highest) == ([7], 11)
    assert [uses.is_in_tree(page) for page in (1, 2, 7, 11)] == [True, False, False, False]
