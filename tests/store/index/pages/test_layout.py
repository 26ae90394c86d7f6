"""LMDB's pages, read without LMDB."""

from pathlib import Path

import pytest

from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from modelfs.store.index.pages.layout import (
    BIG,
    LEAF,
    TREE,
    DamagedPage,
    PageFile,
    Tree,
    nodes_of,
    value_of,
)
from modelfs.store.index.pages.meta import newest, read_metas
from modelfs.store.index.row_checksum import checked
from modelfs.store.index.tables import Table
from tests.support.small_index import put


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The data file of an index with a short row, a long one and an empty one."""
    index = Index(Directory(tmp_path))
    for key, value in ((b"a", b"1"), (b"b", bytes(range(256)) * 40), (b"c", b"")):
        put(index, key, value)
    index.close()
    return tmp_path / "data.mdb"


def meta_leaf(file: PageFile) -> bytes:
    """Return the only page of the table `meta`."""
    meta = newest(read_metas(file))
    assert meta is not None
    (node,) = [
        node
        for node in nodes_of(file.read(meta.tables.root), meta.tables.root, LEAF)
        if node.key == Table.META.encode()
    ]
    assert node.flags == TREE
    tree = Tree.from_bytes(node.value)
    assert (tree.depth, tree.leaves, tree.entries, tree.overflow) == (1, 1, 3, 3)
    return file.read(tree.root)


def test_rows_are_those_of_lmdb(path: Path) -> None:
    """Keys and values are as LMDB wrote them, also a value on overflow pages."""
    with PageFile(Directory(path.parent)) as file:
        page = meta_leaf(file)
        nodes = nodes_of(page, int.from_bytes(page[:8], "little"), LEAF)
        values = [checked(Table.META, node.key, value_of(file, node)) for node in nodes]
        assert [node.key for node in nodes] == [b"a", b"b", b"c"]
        assert values == [b"1", bytes(range(256)) * 40, b""]
        assert [node.flags for node in nodes] == [0, BIG, 0]


def test_each_commit_writes_the_older_meta_page(path: Path) -> None:
    """Both meta pages are whole, and one is of the commit before the other's."""
    with PageFile(Directory(path.parent)) as file:
        metas = read_metas(file)
    numbers = sorted(meta.transaction for meta in metas if meta is not None)
    assert numbers == [numbers[-1] - 1, numbers[-1]]
    assert newest([None, None]) is None


@pytest.mark.parametrize(
    ("at", "value", "problem"),
    [
        (0, b"\xff", "it has the number"),
        (10, b"\x06", "its flags are 0x6 in place of 0x2"),
        (12, b"\x11", "its free space is from 17"),
        (14, b"\xff\xff", "its free space"),
        (16, b"\x00", "a node lies at|overlap|fill"),
    ],
)
def test_damage_has_a_message(path: Path, at: int, value: bytes, problem: str) -> None:
    """A page that LMDB does not write is refused, with the reason."""
    with PageFile(Directory(path.parent)) as file:
        page = meta_leaf(file)
    number = int.from_bytes(page[:8], "little")
    damaged = page[:at] + value + page[at + len(value) :]
    with pytest.raises(DamagedPage, match=problem):
        nodes_of(damaged, number, LEAF)


def test_a_short_file_has_no_such_page(path: Path) -> None:
    """Behind the end of the file there is nothing, however large the number is."""
    with PageFile(Directory(path.parent)) as file:
        assert file.read(file.pages) == file.read(1 << 63) == b""
        assert file.kind(file.pages) == (0, 0)
