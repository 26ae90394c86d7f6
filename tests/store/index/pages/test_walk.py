"""The check of the index's pages: whatever LMDB would die of is found before."""

import errno
import os
from pathlib import Path

import pytest

from modelfs.errors import DamagedPages
from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from modelfs.store.index.pages.layout import BRANCH, PageFile
from modelfs.store.index.pages.uses import Use
from modelfs.store.index.pages.walk import FREE, TABLES, PageProblem
from modelfs.store.index.tables import Table, number_key
from tests.support.index_pages import SIZE, walk_of
from tests.support.stores import overwrite, run_apart

ROWS = 4000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The data file of an index with a tree of two levels, and one with an overflow page."""
    index = Index(Directory(tmp_path))
    for start in range(0, ROWS, 500):
        with index.change():
            for number in range(start, start + 500):
                index.put(Table.CHUNKS, number_key(number), bytes(80))
            index.put(Table.XATTRS, number_key(start), bytes(9000))
        index.commit()
    index.close()
    return tmp_path / "data.mdb"


def problem(path: Path) -> PageProblem:
    """Return the only problem."""
    (found,) = walk_of(path).problems
    return found


def test_a_sound_index_has_no_problem(path: Path) -> None:
    """Every page has exactly one use, and the leaves have all rows."""
    found = walk_of(path)
    assert found.problems == []
    assert found.uses.pages(Use.NONE) == []
    assert len(found.leaves[Table.CHUNKS]) > 50


def test_a_problem_names_the_rows_that_may_be_missing(path: Path) -> None:
    """It has the page, the table, and the range of keys."""
    place = walk_of(path).leaves[Table.CHUNKS][7]
    overwrite(path, place.number * SIZE + 10, b"\x06")
    assert problem(path) == (
        place.number,
        Table.CHUNKS,
        place.low,
        place.high,
        "its flags are 0x6 in place of 0x2",
    )
    with pytest.raises(DamagedPages, match=rf"page {place.number} of the index \(chunks\): its fl"):
        Index(Directory(path.parent), read_only=True)


def test_a_page_of_other_keys_is_found(path: Path) -> None:
    """A sound page in the place of another, as a write to a wrong place leaves it."""
    one, other = walk_of(path).leaves[Table.CHUNKS][3:5]
    page = bytearray(path.read_bytes()[one.number * SIZE :][:SIZE])
    page[:8] = other.number.to_bytes(8, "little")
    overwrite(path, other.number * SIZE, bytes(page))
    assert problem(path).problem == "its keys belong to another page"


def test_a_lost_branch_loses_a_range(path: Path) -> None:
    """The walk does not go on below a damaged page, which is one problem."""
    with PageFile(Directory(path.parent)) as file:
        used = walk_of(path).uses.pages(Use.TREE)
        (branch,) = [page for page in used if file.kind(page)[0] == BRANCH]
    overwrite(path, branch * SIZE, bytes(SIZE))
    found = problem(path)
    assert (found.page, found.tree, found.low, found.high) == (branch, Table.CHUNKS, b"", None)


def test_a_page_that_the_disk_cannot_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EIO of one page is its problem; through LMDB's mapping it would be SIGBUS."""
    place = walk_of(path).leaves[Table.CHUNKS][9]
    real = os.preadv

    def preadv(fd: int, buffers: list[memoryview], start: int) -> int:
        if start <= place.number * SIZE < start + sum(map(len, buffers)):
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, buffers, start)

    monkeypatch.setattr(os, "preadv", preadv)
    found = problem(path)
    assert (found.page, found.problem) == (place.number, "it cannot be read: Input/output error")


def test_a_free_page_in_use(path: Path) -> None:
    """A page of a tree that is in the list of free pages would be overwritten by a commit."""
    found = walk_of(path)
    with PageFile(Directory(path.parent)) as file:
        page = file.read(found.leaves[FREE][0].number)
    # A number that is in the page once: it may also be that of a commit.
    free = max(
        number
        for number in found.uses.pages(Use.FREE)
        if page.count(number.to_bytes(8, "little")) == 1
    )
    used = max(place.number for place in found.leaves[Table.CHUNKS] if place.number < free)
    at = page.index(free.to_bytes(8, "little"))
    overwrite(path, found.leaves[FREE][0].number * SIZE + at, used.to_bytes(8, "little"))
    assert {each.tree for each in walk_of(path).problems} & {FREE, Table.CHUNKS}


def test_the_tree_of_tables_is_checked(path: Path) -> None:
    """A damaged entry hides its table alone."""
    place = walk_of(path).leaves[TABLES][0]
    with PageFile(Directory(path.parent)) as file:
        at = file.read(place.number).index(b"chunks")
    overwrite(path, place.number * SIZE + at - 4, b"\x00")
    found = walk_of(path)
    assert [(each.tree, each.problem) for each in found.problems] == [
        (TABLES, "an entry is no tree")
    ]
    assert Table.CHUNKS not in found.leaves
    assert Table.XATTRS in found.leaves


ANY_DAMAGE = """
import random, shutil, sys
from pathlib import Path
from modelfs.errors import CorruptIndex
from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from modelfs.store.index.tables import Table, number_key
from tests.support.index_pages import walk_of
source, seed = Path(sys.argv[1]), int(sys.argv[2])
used = walk_of(source).uses.pages(1)
chance, refused, opened = random.Random(seed), 0, 0
folder = source.parent / f"damaged{seed}"
for _ in range(40):
    folder.mkdir()
    data = bytearray(source.read_bytes())
    for _ in range(chance.choice([1, 3])):
        at = chance.choice([chance.randrange(16), chance.randrange(100), chance.randrange(4096)])
        data[chance.choice(used) * 4096 + at] ^= 1 << chance.randrange(8)
    (folder / "data.mdb").write_bytes(data)
    try:
        index = Index(Directory(folder))
    except CorruptIndex:
        refused += 1
    else:
        for table in Table:
            for key in index.keys(table):
                index.floor(table, key, key)
        with index.change():
            for number in range(0, 4000, 40):
                index.delete(Table.CHUNKS, number_key(number))
                index.put(Table.DEAD, number_key(number), b"")
        index.commit()
        index.close()
        opened += 1
    shutil.rmtree(folder)
print(refused, opened)
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_no_damage_ends_the_process(path: Path, seed: int) -> None:
    """An index with any bits flipped is refused, or LMDB reads and writes all of it."""
    refused, opened = map(int, run_apart(ANY_DAMAGE, path, seed).split())
    assert refused > 10
    assert opened > 3
