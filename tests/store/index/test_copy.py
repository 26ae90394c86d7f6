"""A private copy of an index, for a read that takes long."""

import errno
import os
from pathlib import Path

import pytest

from modelfs.errors import StoreFull
from modelfs.store.disk.directory import Directory
from modelfs.store.index import copy
from modelfs.store.index.index import Index
from modelfs.store.index.tables import Table
from tests.support.small_index import put
from tests.support.stores import run_apart

CHANGE = """
import sys
from pathlib import Path
from modelfs.store.disk.directory import Directory
from modelfs.store.index.index import Index
from tests.support.small_index import put
index = Index(Directory(Path(sys.argv[1])))
for number in range(50):
    put(index, b"a", b"%d" % number)
    put(index, b"%d" % number, bytes(5000))
index.close()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of an index with some rows."""
    index = Index(Directory(tmp_path))
    for number in range(20):
        put(index, b"a", b"old")
        put(index, b"%d" % number, bytes(5000))
    index.close()
    return tmp_path


def test_reads_see_one_commit(folder: Path) -> None:
    """Another process's commits do not show inside the block, and do behind it."""
    index = Index(Directory(folder), read_only=True)
    with index.rows.copied():
        rows = list(index.pages(Table.META))
        commit = index.rows.snapshot_id()
        run_apart(CHANGE, folder)
        assert index.get(Table.META, b"a") == b"old"
        assert list(index.pages(Table.META)) == rows
        assert index.floor(Table.META, b"a", b"a") == (b"a", b"old")
        assert index.rows.snapshot_id() == commit
        assert index.rows.newest(Table.META, b"a") == b"49"
    assert index.get(Table.META, b"a") == b"49"
    index.close()


def test_a_folder_that_was_moved(folder: Path) -> None:
    """The copy is one of the index that was opened, not of another at its path."""
    index = Index(Directory(folder), read_only=True)
    moved = folder.rename(folder.with_name("moved"))
    folder.mkdir()
    Index(Directory(folder)).close()
    with index.rows.copied():
        assert index.get(Table.META, b"a") == b"old"
        assert sorted(os.listdir(moved)) == ["data.mdb", "lock.mdb"]
    index.close()


def test_nothing_is_left_over(folder: Path) -> None:
    """The copy has no name, and its descriptor is closed at the end."""
    index = Index(Directory(folder), read_only=True)
    names, descriptors = sorted(os.listdir(folder)), len(os.listdir("/proc/self/fd"))
    with index.rows.copied():
        assert sorted(os.listdir(folder)) == names
    assert len(os.listdir("/proc/self/fd")) == descriptors
    index.close()


def test_an_owner_needs_no_copy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that no other process writes is read as it is."""
    monkeypatch.setattr(copy, "IndexCopy", None)
    for options in ({}, {"read_only": True, "exclude_writers": True}):
        index = Index(Directory(folder), **options)
        with index.rows.copied():
            assert index.get(Table.META, b"a") == b"old"
        index.close()


def test_a_file_system_without_copies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not copy from file to file, the bytes are read and written."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    index = Index(Directory(folder), read_only=True)
    with index.rows.copied():
        assert index.get(Table.META, b"19") == bytes(5000)
    index.close()


def test_without_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No disk has room: an error, and nothing is left over."""
    monkeypatch.setattr(copy, "PART_MAX", 0.0)
    index = Index(Directory(folder), read_only=True)
    with pytest.raises(StoreFull, match="no room for a copy of the index"), index.rows.copied():
        pass
    assert index.get(Table.META, b"a") == b"old"
    index.close()
