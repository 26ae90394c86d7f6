"""The inode table: records, numbers, and the totals that depend on them."""

import dataclasses

import pytest

from modelfs.errors import CorruptIndex, NotFound
from modelfs.store.index.counters import FILES, LOGICAL
from modelfs.store.index.tables import ROOT, InodeNumber, Table, number_key
from modelfs.store.store import Store
from tests.support.stores import FOLDER, ME, Box, new_file, stored_file


def totals(store: Store) -> tuple[int, int]:
    return store.counters.get(FILES), store.counters.get(LOGICAL)


def test_totals_follow_the_sizes_of_files(opened: Store) -> None:
    """A record that is put twice, or deleted twice, counts once; directories do not count."""
    inode = stored_file(opened, b"f", b"123")
    opened.namespace.create(ROOT, b"folder", FOLDER, ME)
    assert totals(opened) == (1, 3)
    node = opened.inodes.get(inode)
    with opened.index.change():
        opened.inodes.put(dataclasses.replace(node, size=10))
        opened.inodes.put(dataclasses.replace(node, size=10))
        assert totals(opened) == (1, 10)
        opened.inodes.delete(inode)
        opened.inodes.delete(inode)
        assert totals(opened) == (0, 0)
        opened.inodes.put(node)
    assert totals(opened) == (1, 3)


def test_a_failed_change_keeps_record_and_totals(opened: Store) -> None:
    """A change that raises leaves the record, its totals and the next number as they were."""
    inode = stored_file(opened, b"f", b"123")
    node = opened.inodes.get(inode)

    def fails() -> None:
        with opened.index.change():
            opened.inodes.touch(node, size=100)
            opened.inodes.new_number()
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert opened.inodes.get(inode) == node
    assert totals(opened) == (1, 3)
    assert new_file(opened, b"next") == inode + 1


def test_no_number_is_used_twice(box: Box) -> None:
    """The number of a removed inode is not given to another, also after a restart."""
    inode = new_file(box.store, b"f")
    for _ in box.store.orphans.remove(box.store.namespace.unlink(ROOT, b"f")):
        pass
    store = box.reopen()
    assert new_file(store, b"g") > inode


def test_a_missing_and_a_damaged_record_differ(opened: Store) -> None:
    """A missing record is NotFound, and None to `find`; a damaged one is damage to both."""
    with pytest.raises(NotFound):
        opened.inodes.get(InodeNumber(99))
    assert opened.inodes.find(InodeNumber(99)) is None
    with opened.index.change():
        opened.index.put(Table.INODES, number_key(99), b"junk")
    for look in (opened.inodes.get, opened.inodes.find):
        with pytest.raises(CorruptIndex):
            look(InodeNumber(99))
    with opened.index.change():
        opened.index.delete(Table.INODES, number_key(99))
