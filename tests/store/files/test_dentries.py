"""A name has three rows, which are only changed together."""

from pathlib import Path

import pytest

from modelfs.errors import InvalidArgument, NameTooLong, NotFound
from modelfs.store.files.dentries import Dentries, rows_of
from modelfs.store.index.name_records import Dentry
from modelfs.store.index.tables import ROOT, InodeNumber, Table
from modelfs.store.store import Store
from tests.support.damaged_rows import damage_row
from tests.support.stores import CHUNK, new_file, new_store

NAME_TABLES = (Table.DENTRIES, Table.LISTING, Table.PARENTS)


@pytest.fixture
def dentries(opened: Store) -> Dentries:
    return Dentries(opened.index, opened.counters)


def rows(store: Store) -> dict[Table, dict[bytes, bytes]]:
    return {table: dict(store.index.pages(table)) for table in NAME_TABLES}


def rows_of_all(*names: tuple[InodeNumber, bytes, Dentry]) -> dict[Table, dict[bytes, bytes]]:
    return {table: dict(rows_of(*name)[table] for name in names) for table in NAME_TABLES}


def test_a_name_has_a_row_in_each_table(opened: Store, dentries: Dentries) -> None:
    """A name that is added, pointed to another inode or removed changes its three rows."""
    first, second = new_file(opened, b"first"), new_file(opened, b"second")
    one, two = dentries.entry(ROOT, b"first"), dentries.entry(ROOT, b"second")
    before = [(ROOT, b"first", one), (ROOT, b"second", two)]
    assert (one.inode, two.inode) == (first, second)
    assert rows(opened) == rows_of_all(*before)
    with opened.index.change():
        cookie = dentries.next_cookie()
        dentries.add(ROOT, b"third", first)
        assert rows(opened) == rows_of_all(*before, (ROOT, b"third", Dentry(first, cookie)))
        dentries.point(ROOT, b"third", Dentry(first, cookie), second)
        assert rows(opened) == rows_of_all(*before, (ROOT, b"third", Dentry(second, cookie)))
        assert set(dentries.names_of(second)) == {(ROOT, b"second"), (ROOT, b"third")}
        dentries.remove(ROOT, b"third", Dentry(second, cookie))
    assert rows(opened) == rows_of_all(*before)


@pytest.mark.parametrize("table", [Table.PARENTS, Table.LISTING])
def test_a_name_in_a_damaged_row_is_left_out(tmp_path: Path, table: Table) -> None:
    """The other names of an inode are found, and without any its path is its number."""
    path = new_store(tmp_path, chunk_size=CHUNK)
    with Store(path) as store:
        inode = new_file(store, b"one")
        store.namespace.link(inode, ROOT, b"two")
        paths = [store.namespace.path_of(inode)]
    for number in range(2):
        damage_row(path / "index", table, number)
        with Store(path, read_only=True) as store:
            names = Dentries(store.index, store.counters).names_of(inode)
            assert len(list(names)) == 1 - number
            paths.append(store.namespace.path_of(inode))
    assert paths == [b"/one", b"/two", b"(inode %d)" % inode]


def test_no_cookie_is_used_twice(opened: Store, dentries: Dentries) -> None:
    """The cookie of a removed name is not allocated again."""
    with opened.index.change():
        cookies = [dentries.new_cookie() for _ in range(5)]
    new_file(opened, b"f")
    assert cookies == list(range(cookies[0], cookies[0] + 5))
    assert dentries.entry(ROOT, b"f").cookie == cookies[-1] + 1


def test_names_that_cannot_exist_are_refused(dentries: Dentries) -> None:
    """A look-up of an impossible name raises; a possible name without rows is just not found."""
    for name in (b"", b".", b"..", b"a/b", b"a\0b"):
        with pytest.raises(InvalidArgument):
            dentries.find(ROOT, name)
    with pytest.raises(NameTooLong):
        dentries.find(ROOT, b"x" * 256)
    assert dentries.find(ROOT, b"x" * 255) is None
    with pytest.raises(NotFound):
        dentries.entry(ROOT, b"x" * 255)
