"""Stores as a whole: opening, commits and closing."""

import contextlib
import errno
import os
from pathlib import Path

import pytest

from modelfs.errors import CorruptIndex, StoreReadOnly
from modelfs.jobs.check.fsck import check
from modelfs.store.disk.calls import run_here
from modelfs.store.disk.directory import Directory
from modelfs.store.index.committed import CommittedRows
from modelfs.store.index.index import Index
from modelfs.store.index.superblock import SUPERBLOCK
from modelfs.store.index.tables import ROOT, Table
from modelfs.store.store import Store
from tests.support.run_jobs import ingest_all, ingest_file
from tests.support.stores import (
    CHUNK,
    FOLDER,
    ME,
    Box,
    content_of,
    names_in,
    new_file,
    noise,
    stored_file,
)


def test_a_store_that_could_not_be_opened_is_not_locked(folder: Path) -> None:
    """A store that failed to open can be opened once the cause is repaired."""
    index = Index(Directory(folder / "index"))
    block = index.get(Table.META, SUPERBLOCK)
    assert block is not None
    with index.change():
        index.delete(Table.META, SUPERBLOCK)
    index.commit()
    index.close()
    for _ in range(2):
        with pytest.raises(CorruptIndex):
            Store(folder)
    index = Index(Directory(folder / "index"))
    with index.change():
        index.put(Table.META, SUPERBLOCK, block)
    index.commit()
    index.close()
    Store(folder).close()


def test_a_reader_changes_nothing(folder: Path) -> None:
    """A read-only store refuses changes, and its files stay as they are."""
    with Store(folder) as store:
        inode = stored_file(store, b"f", noise(CHUNK))
        staged = new_file(store, b"g", b"staged")
        store.flush(staged)
        store.commit()
    (folder / "packs" / "00000099.pack").write_bytes(b"left by a crash")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    with Store(folder, read_only=True) as store:
        assert content_of(store, inode) == noise(CHUNK)
        assert content_of(store, staged) == b"staged"
        with pytest.raises(StoreReadOnly):
            store.namespace.create(ROOT, b"new", FOLDER, ME)
        assert check(store, data=True) == []
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path.name for path in before if after[path] != before[path]} <= {"lock.mdb"}


def test_a_commit_is_in_three_parts(box: Box) -> None:
    """Changes made while a commit is written belong to the next one."""
    new_file(box.store, b"first")
    commit = box.store.commit_calls()
    write = next(commit)
    new_file(box.store, b"second")
    write()
    run_here(commit)
    assert box.store.index.dirty
    store = box.crash()
    assert [name for _, name, _ in store.dentries.listing(ROOT, 0, 9)] == [b"first"]


def test_a_failed_commit_is_tried_again(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed commit changes nothing, and the next one has all its changes."""
    inode = new_file(box.store, b"f", b"content")

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(CommittedRows, "write", fails)
        with pytest.raises(OSError, match="error"):
            box.store.commit()
    assert box.store.namespace.lookup(ROOT, b"f") == inode
    assert content_of(box.store, inode) == b"content"
    ingest_all(box.store)
    assert content_of(box.crash(), inode) == b"content"


def test_leaving_a_block_by_an_error_commits_nothing(folder: Path) -> None:
    """A `with` block closes the store, or abandons it after an exception."""
    with Store(folder) as store:
        new_file(store, b"kept")
    with contextlib.suppress(KeyError), Store(folder) as store:
        new_file(store, b"lost")
        raise KeyError
    with Store(folder) as store:
        assert [name for _, name, _ in store.dentries.listing(ROOT, 0, 9)] == [b"kept"]


def test_closing_a_store_keeps_everything(box: Box) -> None:
    """An orderly close flushes all unflushed content."""
    inode = new_file(box.store, b"f", b"content")
    assert content_of(box.reopen(), inode) == b"content"


def test_dropped_files_stay_until_the_commit(opened: Store) -> None:
    """Files of dropped windows stay until the commit has succeeded."""
    inode = new_file(opened, b"f", b"content")
    opened.flush(inode)
    opened.commit()
    ingest_file(opened, inode)
    commit = opened.commit_calls()
    next(commit)
    assert len(names_in(opened.staging.directory.path)) == 1
    commit.close()
    assert len(names_in(opened.staging.directory.path)) == 1
    opened.commit()
    assert names_in(opened.staging.directory.path) == set()
